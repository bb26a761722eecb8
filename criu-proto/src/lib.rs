//! CRIU's remote procedure calls and image files as Rust types, for CRIU 4.2 and older.
//!
//! The code is generated from `proto/` and checked in; `hack/gen-proto` writes it anew. Fields are
//! public, `Option`s where the protocol allows absence; unknown fields are kept, so that a message
//! of a newer CRIU can be read and written back.
#![forbid(unsafe_code)]

mod generated;

pub use generated::{images, rpc};
pub use protobuf::{EnumOrUnknown, Message, MessageField};
