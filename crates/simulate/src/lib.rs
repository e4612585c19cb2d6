//! Program to Timeline.
