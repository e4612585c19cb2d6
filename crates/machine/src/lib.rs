//! System files to checked machine descriptions.
