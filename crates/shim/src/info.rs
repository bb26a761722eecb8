//! `-info`: what the runtime can do, by which containerd 2 decides whether it may ask for it.

use std::io::{IsTerminal, Read, Write};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use hiber::features;

use crate::error::{Context, Error, Result};

/// The name by which containerd knows the features document of the OCI runtime specification.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints a `RuntimeInfo`, in protobuf; the options on standard input go back as they are.
pub(crate) fn print() -> Result<()> {
    let mut options = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut options).context("read standard input")?;
    }
    let options =
        Any::parse_from_bytes(&options).map_err(|e| Error::invalid("standard input", e.to_string()))?;
    let document =
        features::document(&features::built()).map_err(std::io::Error::from).context("features")?;
    let features = Any { type_url: FEATURES.into(), value: document.into(), ..Any::default() };
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..RuntimeVersion::default() };
    let info = RuntimeInfo {
        name: "io.containerd.hiber.v2".into(),
        version: MessageField::some(version),
        options: Some(options).filter(|any| !any.type_url.is_empty()).into(),
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().map_err(std::io::Error::other).context("encode the answer")?;
    std::io::stdout().write_all(&bytes).context("print the answer")
}
