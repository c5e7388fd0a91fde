//! From a core module to a component.

use wit_component::ComponentEncoder;

/// Wraps a core module into a component. One that is a component already is
/// given back as it is. Modules for WASI preview 1 get its adapter.
pub fn componentize(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if wasmparser::Parser::is_component(bytes) {
        return Ok(bytes.to_vec());
    }
    let chain = |error: anyhow::Error| format!("{error:#}");
    ComponentEncoder::default()
        .module(bytes)
        .and_then(|encoder| {
            encoder.adapter(
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )
        })
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        assert!(componentize(b"not wasm").is_err());
        assert!(componentize(b"").is_err());
    }

    #[test]
    fn a_component_stays_as_it_is() {
        let empty = b"\0asm\x0d\0\x01\0";
        assert_eq!(componentize(empty).unwrap(), empty);
    }
}
