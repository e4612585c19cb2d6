//! From bytes to protobuf messages, with what is wrong in the user's terms.

use super::proto::ModelProto;
use bytes::{Buf, Bytes};
use orrery_base::{Diagnostic, Result};
use prost::Message;

/// Reads a model.
///
/// # Errors
/// `onnx-empty`, `onnx-truncated`, `onnx-text`, `onnx-nesting`, or `onnx-not-protobuf`.
pub(super) fn parse_model(bytes: &Bytes) -> Result<ModelProto> {
    if bytes.is_empty() {
        return Diagnostic::error("onnx-empty", "the file is empty").err();
    }
    let model: ModelProto = parse(bytes, "an ONNX model")?;
    if model.graph.is_none() {
        return Diagnostic::error("onnx-no-graph", "the file has no graph: it is no ONNX model").err();
    }
    Ok(model)
}

/// Reads any message; `what` is what the file should be.
///
/// # Errors
/// As [`parse_model`], save for an empty file, which is a message with nothing in it.
pub(super) fn parse<M: Message + Default>(bytes: &Bytes, what: &str) -> Result<M> {
    M::decode(bytes.clone()).map_err(|e| {
        let detail = e.to_string();
        let detail = detail.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&detail);
        Box::new(if is_cut_off(bytes.clone()) {
            Diagnostic::error("onnx-truncated", format!("the file ends early: {detail}"))
                .help("copy or download it again; a large file kept in a version control system may be a pointer only")
        } else if detail.contains("UTF-8") {
            Diagnostic::error("onnx-text", format!("a name or string in the file is not UTF-8: {detail}"))
        } else if detail.contains("recursion limit") {
            Diagnostic::error("onnx-nesting", "subgraphs or types are nested more than 30 deep")
        } else {
            Diagnostic::error("onnx-not-protobuf", format!("the file is not {what}: {detail}"))
        })
    })
}

/// True where the outermost fields are well formed up to one that is longer than the file.
fn is_cut_off(mut rest: Bytes) -> bool {
    while rest.has_remaining() {
        let Ok((tag, wire)) = prost::encoding::decode_key(&mut rest) else { return rest.is_empty() };
        let skip = match wire {
            prost::encoding::WireType::LengthDelimited => match prost::encoding::decode_varint(&mut rest) {
                Ok(length) => length,
                Err(_) => return rest.is_empty(),
            },
            prost::encoding::WireType::Varint => match prost::encoding::decode_varint(&mut rest) {
                Ok(_) => 0,
                Err(_) => return rest.is_empty(),
            },
            prost::encoding::WireType::ThirtyTwoBit => 4,
            prost::encoding::WireType::SixtyFourBit => 8,
            _ => return false,
        };
        if skip > rest.remaining() as u64 {
            // No model has fields of such numbers: these are not protobuf bytes at all.
            return tag < 100;
        }
        rest.advance(skip as usize);
    }
    false
}
