//! Graph to Graph: folding, fusion, legalisation to a machine's precision.
