//! regex-lite under the name of regex. `oci-spec` matches one short ASCII pattern, and for that would bring 600 KiB of code
//! and Unicode tables with 10,000 relocations, which every start of a position-independent program has to make.
#![forbid(unsafe_code)]

pub use regex_lite::*;
