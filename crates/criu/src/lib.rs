//! CRIU's RPC over a socketpair.
#![forbid(unsafe_code)]
