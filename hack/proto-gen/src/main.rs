//! Writes Rust from criu-proto's .proto files: `proto-gen PROTO_DIR OUT_DIR`.
//!
//! Run it through hack/gen-proto, which also formats what comes out.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use protobuf_codegen::{Codegen, Customize};

fn main() -> Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [protos, out] = args.as_slice() else { bail!("usage: proto-gen PROTO_DIR OUT_DIR") };
    generate(protos, &protos.join("rpc.proto"), out)?;
    let images = protos.join("images");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&images)
        .with_context(|| format!("list {}", images.display()))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "proto"));
    files.sort();
    let out = out.join("images");
    for file in &files {
        generate(&images, file, &out)?;
    }
    Ok(())
}

/// Generates the module of one file.
fn generate(include: &Path, file: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    Codegen::new()
        .pure()
        .include(include)
        .input(file)
        .out_dir(out)
        // No reflection and no accessors: a third of the code. Messages are never printed as text, and
        // their fields are public.
        .customize(Customize::default().lite_runtime(true).generate_accessors(false).gen_mod_rs(false))
        .run()
        .with_context(|| format!("generate code from {}", file.display()))
}
