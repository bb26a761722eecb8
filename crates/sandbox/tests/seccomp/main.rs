//! The seccomp compiler: against a model of the specification, against libseccomp, and in the
//! kernel.
#![forbid(unsafe_code)]

mod captured;
mod compare;
mod fields;
mod kernel;
mod model;
mod profiles;
mod reference;
mod vm;
