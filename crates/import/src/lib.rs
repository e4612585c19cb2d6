//! Model files to Graph and back.
