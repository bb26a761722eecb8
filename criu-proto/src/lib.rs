#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod generated;

pub use generated::{images, rpc};
pub use protobuf::well_known_types::empty::Empty;
pub use protobuf::{EnumOrUnknown, Message, MessageField};
