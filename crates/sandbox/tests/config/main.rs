//! config.json as people, programs and enemies write it: no reader of it ever panics, and each says which field is
//! wrong.
#![forbid(unsafe_code)]

mod corpus;
mod hostile;
mod types;
