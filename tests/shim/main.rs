//! hiber's shim by its own protocol: what no client of Debian's can be made to ask, and what a bad one asks.
#![forbid(unsafe_code)]

mod bootstrap;
mod bounds;
mod clients;
mod cri;
mod errors;
mod events;
mod lifecycle;
mod shim;

use shim::{COUNT, Shim, children, count};
