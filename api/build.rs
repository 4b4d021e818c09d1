//! Compiles the two services from their proto files, without protoc.

use std::path::PathBuf;

use prost::Message;

const PROTOS: [&str; 2] = ["proto/tandem/v1/tandem.proto", "proto/katran.proto"];

/// Fields whose listing is another text than the number on the wire.
const AS_TEXT: [(&str, &str); 7] = [
    ("tandem.v1.Mode.mode", "crate::names::seat"),
    ("tandem.v1.Decision.chosen", "crate::names::seat"),
    ("tandem.v1.Candidate.mode", "crate::names::seat"),
    ("tandem.v1.VipKey.protocol", "crate::names::protocol"),
    ("tandem.v1.Real.state", "crate::names::state"),
    ("tandem.v1.RealStats.state", "crate::names::state"),
    ("tandem.v1.Ring.digest", "crate::names::hex"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    // For reflection.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut builder = tonic_prost_build::configure()
        // Listings in a settled order.
        .btree_map(".tandem.v1")
        .message_attribute(".tandem.v1", "#[derive(serde::Serialize)]")
        .message_attribute("tandem.v1.Counts", "#[serde(transparent)]");
    for (field, function) in AS_TEXT {
        builder = builder.field_attribute(field, format!("#[serde(serialize_with = \"{function}\")]"));
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
