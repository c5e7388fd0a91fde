//! Signatures of messages, as [Standard Webhooks](https://www.standardwebhooks.com) has them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What stands before a secret that is written in Base64.
const PREFIX: &str = "whsec_";

/// The key that a secret stands for: what follows `whsec_` is Base64, anything else is taken as it is.
pub fn signing_key(secret: &str) -> Result<Vec<u8>, String> {
    match secret.strip_prefix(PREFIX) {
        Some(encoded) => {
            STANDARD.decode(encoded).map_err(|_| format!("the text after {PREFIX} is not Base64"))
        }
        None => Ok(secret.as_bytes().to_vec()),
    }
}

/// The header `webhook-signature`: HMAC-SHA256 with each key, separated by spaces. `at`: seconds since 1970.
pub fn sign(keys: &[Vec<u8>], id: &str, at: u64, body: &str) -> String {
    let text = format!("{id}.{at}.{body}");
    let signatures = keys.iter().map(|key| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        format!("v1,{}", STANDARD.encode(hmac::sign(&key, text.as_bytes())))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the specification's own libraries are tested with.
    #[test]
    fn a_message_is_signed_as_others_check_it() {
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = sign(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = sign(&[b"a".to_vec(), b"b".to_vec()], "m", 1, "{}");
        assert_eq!(both.split(' ').count(), 2);
        assert!(signing_key("whsec_!").is_err());
        assert_eq!(signing_key("plain").unwrap(), b"plain");
    }
}
