//! Private keys as cosign encrypts them: JSON in PEM, in which scrypt makes the key of a NaCl secretbox
//! (XSalsa20 and Poly1305) of a passphrase, and PKCS#8 is in the box.
//! <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use serde::Deserialize;

/// The labels of such keys, the present one and that of cosign 1.
pub(crate) const LABELS: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];

/// Blocks of 128 bytes, times the cost, that are waited for: 256 MiB of memory.
const MOST_BLOCKS: u64 = 1 << 21;
const MOST_PARALLEL: u32 = 16;
/// Blocks times the lanes that are computed one after the other: 8 MiB more.
const MOST_IN_LANES: u64 = 1 << 16;
/// What is said if it is not the passphrase.
pub(crate) const WRONG: &str = "the passphrase is wrong";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

#[derive(Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// The PKCS#8 in the content of such a key.
pub(crate) fn open(content: &[u8], passphrase: &str) -> Result<Vec<u8>, &'static str> {
    let damaged = "it is not a key that cosign has encrypted";
    let Sealed { kdf, cipher, ciphertext } = serde_json::from_slice(content).map_err(|_| damaged)?;
    if kdf.name != "scrypt" || cipher.name != "nacl/secretbox" {
        return Err("its encryption is not supported");
    }
    let Params { n, r, p } = kdf.params;
    if !n.is_power_of_two() {
        return Err(damaged);
    }
    // How long it takes, and how much memory, is up to whoever wrote the file. (RFC 7914: 128 * r * (N + p) bytes.)
    let (size, lanes) = (u64::from(r), u64::from(p));
    if n.saturating_mul(size) > MOST_BLOCKS || size * lanes > MOST_IN_LANES || p > MOST_PARALLEL {
        return Err("its key derivation takes too long");
    }
    let decoded = |text: &str| STANDARD.decode(text).map_err(|_| damaged);
    let (salt, nonce, sealed) = (decoded(&kdf.salt)?, decoded(&cipher.nonce)?, decoded(&ciphertext)?);
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| damaged)?;
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| damaged)?;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| damaged)?;
    let mut key = [0; KEY_BYTES];
    scrypt::scrypt(passphrase.as_bytes(), &salt, &params, &mut key).map_err(|_| damaged)?;
    secretbox(&key, &nonce, &sealed).ok_or(WRONG)
}

/// Opens a box: a tag, and the text that it authenticates. None if it is by another key.
fn secretbox(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], sealed: &[u8]) -> Option<Vec<u8>> {
    let (tag, text) = sealed.split_at_checked(TAG_BYTES)?;
    let mut stream = XSalsa20::new(key.into(), nonce.into());
    // The beginning of the stream is the key of the tag.
    let mut of_tag = [0; KEY_BYTES];
    stream.apply_keystream(&mut of_tag);
    // Nobody can try this from afar, so it may take as long as it takes.
    if Poly1305::new((&of_tag).into()).compute_unpadded(text).as_slice() != tag {
        return None;
    }
    let mut text = text.to_vec();
    stream.apply_keystream(&mut text);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        // Nothing in it is secret: the cost is small, and nobody is asked for what comes out.
        let mut key = serde_json::json!({
            "kdf": { "name": "scrypt", "params": { "N": 2, "r": 1, "p": 1 }, "salt": "" },
            "cipher": { "name": "nacl/secretbox", "nonce": STANDARD.encode([0; 24]) },
            "ciphertext": STANDARD.encode([0; 40]),
        });
        change(&mut key);
        key.to_string().into_bytes()
    }

    /// The test of NaCl's own distribution (tests/secretbox.c).
    #[test]
    fn the_box_of_nacl_is_opened() {
        let hex = |text: &str| -> Vec<u8> {
            let digits: Vec<u8> = text.bytes().filter(|c| c.is_ascii_hexdigit()).collect();
            digits
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        };
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let sealed = hex(
            "f3ffc7703f9400e52a7dfb4b3d3305d9 8e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a
             c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae
             90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5",
        );
        let text = hex(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129
             6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde
             048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        );
        let (key, nonce) = (key.try_into().unwrap(), nonce.try_into().unwrap());
        assert_eq!(secretbox(&key, &nonce, &sealed).as_deref(), Some(text.as_slice()));
        for at in [0, 16, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(secretbox(&key, &nonce, &changed), None);
        }
        assert_eq!(secretbox(&key, &nonce, &sealed[..15]), None);
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        assert_eq!(open(&sealed(|_| ()), "x"), Err(WRONG));
        let refused = |path: &str, value: serde_json::Value| {
            open(&sealed(|key| *key.pointer_mut(path).unwrap() = value.clone()), "x").unwrap_err()
        };
        assert_eq!(refused("/kdf/name", "argon2".into()), "its encryption is not supported");
        assert_eq!(refused("/cipher/name", "aes".into()), "its encryption is not supported");
        assert_eq!(refused("/kdf/params/N", (1u64 << 40).into()), "its key derivation takes too long");
        assert_eq!(refused("/kdf/params/p", 1000.into()), "its key derivation takes too long");
        // Each lane takes blocks of its own.
        let wide = sealed(|key| key["kdf"]["params"] = serde_json::json!({ "N": 2, "r": 1 << 20, "p": 16 }));
        assert_eq!(open(&wide, "x"), Err("its key derivation takes too long"));
        for (path, value) in [
            ("/kdf/params/N", 3.into()),
            ("/kdf/params/N", 0.into()),
            ("/kdf/params/r", 0.into()),
            ("/kdf/salt", "!".into()),
            ("/cipher/nonce", "AAAA".into()),
            ("/ciphertext", serde_json::Value::Null),
        ] {
            assert_eq!(refused(path, value), "it is not a key that cosign has encrypted", "{path}");
        }
        assert_eq!(open(b"{", "x"), Err("it is not a key that cosign has encrypted"));
    }
}
