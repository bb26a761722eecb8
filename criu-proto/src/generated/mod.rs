//! What hack/gen-proto writes.

pub mod images;
pub mod rpc;
