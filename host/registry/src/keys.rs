//! Keys that sign modules: P-256, as cosign makes them, and Ed25519. Private ones are PKCS#8 in PEM, as OpenSSL
//! writes it or as cosign encrypts it, public ones SubjectPublicKeyInfo in PEM.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey,
};
use wfhost_world::private;

use crate::{RegistryError, Sha256, cosign};

/// A public key with P-256 up to its point, in DER.
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_POINT: usize = 65;
/// The same with Ed25519.
const ED: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const ED_POINT: usize = 32;

/// The label of an encrypted key.
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// Iterations of PBKDF2 for keys of ours, as OWASP advises for SHA-256.
const ITERATIONS: u32 = 600_000;
/// Those of others that are waited for.
const MOST_ITERATIONS: u32 = 10_000_000;

/// A key that tells who signed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    /// SubjectPublicKeyInfo in DER.
    spki: Vec<u8>,
}

/// It is named by its fingerprint.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl PublicKey {
    /// Reads SubjectPublicKeyInfo in DER.
    pub fn of_spki(spki: &[u8]) -> Option<Self> {
        let is = |prefix: &[u8], point: usize| spki.starts_with(prefix) && spki.len() == prefix.len() + point;
        (is(P256, P256_POINT) || is(ED, ED_POINT)).then(|| Self { spki: spki.to_owned() })
    }

    /// Reads a public key in PEM, or in Base64 without its frame.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let der = match pem(text) {
            Some(("PUBLIC KEY", der)) => der,
            Some((kind, _)) if kind.contains("PRIVATE") => return Err("it is a private key"),
            Some(_) => return Err("it is a different kind of PEM"),
            None => STANDARD.decode(text.trim()).map_err(|_| "it is not a public key in PEM")?,
        };
        Self::of_spki(&der).ok_or("it is neither a P-256 nor an Ed25519 key")
    }

    /// In Base64, without a frame.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.spki)
    }

    pub fn to_pem(&self) -> String {
        framed("PUBLIC KEY", &self.spki)
    }

    /// What sigstore calls the key: its SHA-256 in Base64.
    pub fn id(&self) -> String {
        STANDARD.encode(Sha256::of(&self.spki).0)
    }

    /// Whether a signature of some bytes is by this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let check = match self.spki.strip_prefix(P256) {
            Some(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature),
            None => {
                let point = self.spki.get(ED.len()..).unwrap_or_default();
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature)
            }
        };
        check.is_ok()
    }
}

/// A key that signs.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public.id())
    }
}

impl PrivateKey {
    /// Makes a key with P-256. Gives it in PEM.
    pub fn generate() -> Result<String, RegistryError> {
        let none = |_| key_error(Path::new("the key"), "random numbers are not available");
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Ok(framed("PRIVATE KEY", pkcs8.map_err(none)?.as_ref()))
    }

    /// The same, encrypted with a passphrase as OpenSSL does it: PBES2 with PBKDF2 (HMAC with SHA-256) and AES-256 in
    /// CBC mode.
    pub fn generate_encrypted(passphrase: &str) -> Result<String, RegistryError> {
        let failed = |reason: &str| key_error(Path::new("the key"), reason);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| failed("there are no random numbers"))?;
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        for bytes in [&mut salt, &mut iv] {
            SystemRandom::new().fill(bytes).map_err(|_| failed("there are no random numbers"))?;
        }
        let kdf = pbes2::Pbkdf2Params::hmac_sha256(ITERATIONS, &salt);
        let kdf = pbes2::Kdf::Pbkdf2(kdf.map_err(|error| failed(&error.to_string()))?);
        let parameters = pbes2::Parameters { kdf, encryption: pbes2::EncryptionScheme::Aes256Cbc { iv } };
        let plain = PrivateKeyInfoRef::try_from(pkcs8.as_ref());
        let plain = plain.map_err(|error| failed(&error.to_string()))?;
        let sealed = plain.encrypt_with_params(parameters, passphrase.as_bytes());
        let sealed = sealed.map_err(|error| failed(&error.to_string()))?;
        Ok(framed(ENCRYPTED, sealed.as_bytes()))
    }

    /// Reads PKCS#8 in PEM, or a key of cosign. `passphrase`: of one that is encrypted.
    pub fn parse(text: &str, passphrase: Option<&str>) -> Result<Self, &'static str> {
        match pem(text) {
            Some(("PRIVATE KEY", der)) => Self::of_der(&der),
            Some((ENCRYPTED, der)) => {
                let passphrase = passphrase.ok_or("it is encrypted, and no passphrase is set")?;
                let sealed = EncryptedPrivateKeyInfoRef::try_from(der.as_slice());
                let sealed = sealed.map_err(|_| "its encryption is not supported")?;
                // How long it takes is up to whoever wrote the file.
                let is_bounded = match sealed.encryption_algorithm.pbes2().map(|pbes2| &pbes2.kdf) {
                    Some(pbes2::Kdf::Pbkdf2(kdf)) => kdf.iteration_count <= MOST_ITERATIONS,
                    Some(pbes2::Kdf::Scrypt(kdf)) => {
                        let blocks = u64::from(kdf.block_size) * kdf.cost_parameter;
                        blocks <= 1 << 21 && kdf.parallelization <= 16
                    }
                    _ => return Err("its encryption is not supported"),
                };
                if !is_bounded {
                    return Err("its key derivation takes too long");
                }
                let plain = sealed.decrypt(passphrase).map_err(|_| "the passphrase is wrong")?;
                Self::of_der(plain.as_bytes())
            }
            Some((kind, content)) if cosign::LABELS.contains(&kind) => {
                // Cosign encrypts with an empty passphrase, too.
                let opened = cosign::open(&content, passphrase.unwrap_or_default());
                Self::of_der(&opened.map_err(|reason| match passphrase {
                    None if reason == cosign::WRONG => "it is encrypted, and no passphrase is set",
                    _ => reason,
                })?)
            }
            Some(("EC PRIVATE KEY", _)) => {
                Err("it is not PKCS#8; `openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW` converts it")
            }
            _ => Err("it is not a private key in PEM"),
        }
    }

    /// Reads PKCS#8.
    fn of_der(der: &[u8]) -> Result<Self, &'static str> {
        let rng = SystemRandom::new();
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &rng) {
            let spki = [P256, pair.public_key().as_ref()].concat();
            let public = PublicKey::of_spki(&spki).ok_or("it has no public key")?;
            return Ok(Self { pair: Pair::P256(Box::new(pair)), public });
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let spki = [ED, pair.public_key().as_ref()].concat();
            let public = PublicKey::of_spki(&spki).ok_or("it has no public key")?;
            return Ok(Self { pair: Pair::Ed25519(Box::new(pair)), public });
        }
        Err("it is neither a P-256 nor an Ed25519 key")
    }

    /// Reads a file that only its owner may write. `passphrase`: of one that is encrypted.
    pub fn read(path: &Path, passphrase: Option<&str>) -> Result<Self, RegistryError> {
        let text = private::read(path).map_err(|error| key_error(path, &error.to_string()))?;
        Self::parse(&text, passphrase).map_err(|reason| key_error(path, reason))
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs bytes, as the key's kind does it.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, RegistryError> {
        match &self.pair {
            Pair::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                let none = |_| key_error(Path::new("the key"), "random numbers are not available");
                Ok(signature.map_err(none)?.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

/// Reads the public key of a file, regardless of its owner.
pub fn read_public(path: &Path) -> Result<PublicKey, RegistryError> {
    let text = private::read_any(path).map_err(|error| key_error(path, &error.to_string()))?;
    PublicKey::parse(&text).map_err(|reason| key_error(path, reason))
}

/// Writes a new pair: `NAME.key`, readable by its owner only, and `NAME.pub`. Nothing is overwritten. `passphrase`: the
/// first is encrypted with it.
pub fn write_pair(
    dir: &Path,
    name: &str,
    passphrase: Option<&str>,
) -> Result<(PathBuf, PathBuf, PublicKey), RegistryError> {
    let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
    for path in [&private, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(key_error(path, "it already exists"));
        }
    }
    let pem = match passphrase {
        Some(passphrase) => PrivateKey::generate_encrypted(passphrase)?,
        None => PrivateKey::generate()?,
    };
    let key = PrivateKey::parse(&pem, passphrase).map_err(|reason| key_error(&private, reason))?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| key_error(&path, &error.to_string())
    };
    crate::logins::write_private(&private, pem.as_bytes()).map_err(failed(&private))?;
    crate::whole::write(&public, key.public.to_pem().as_bytes()).map_err(|error| {
        // One without the other would be in the way of the next pair.
        let _ = std::fs::remove_file(&private);
        failed(&public)(error)
    })?;
    Ok((private, public, key.public))
}

fn key_error(path: &Path, reason: &str) -> RegistryError {
    RegistryError::Key { path: path.to_owned(), reason: reason.to_owned() }
}

/// The first frame of a text in PEM: its label, and what is in it.
fn pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    Some((label, STANDARD.decode(body).ok()?))
}

fn framed(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        let key = PrivateKey::parse(&PrivateKey::generate().unwrap(), None).unwrap();
        let other = PrivateKey::parse(&PrivateKey::generate().unwrap(), None).unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(key.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"massage", &signature));
        assert!(!other.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"message", b""));
        let read = PublicKey::parse(&key.public().to_pem()).unwrap();
        assert_eq!(&read, key.public());
        assert_eq!(PublicKey::parse(&read.to_base64()).as_ref(), Ok(&read));
        assert!(!format!("{key:?}").contains("PRIVATE KEY-----"));
    }

    #[test]
    fn an_encrypted_key_is_read_with_its_passphrase_only() {
        let pem = PrivateKey::generate_encrypted("open sesame").unwrap();
        assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        let key = PrivateKey::parse(&pem, Some("open sesame")).unwrap();
        assert!(key.public().verifies(b"m", &key.sign(b"m").unwrap()));
        assert!(PrivateKey::parse(&pem, None).unwrap_err().contains("no passphrase"));
        assert!(PrivateKey::parse(&pem, Some("open")).unwrap_err().contains("is wrong"));
        // A passphrase that is not needed does no harm.
        assert!(PrivateKey::parse(&PrivateKey::generate().unwrap(), Some("x")).is_ok());
        let cut = pem.replacen("MI", "AA", 1);
        assert!(PrivateKey::parse(&cut, Some("open sesame")).is_err());
    }

    /// Keys that others made, from the tests of sigstore-rs: one of cosign with an empty passphrase, and one with the
    /// passphrase 123. Their public halves were made by an implementation of its own.
    #[test]
    fn keys_that_cosign_has_encrypted_are_read() {
        let empty = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiJFY3pJR3Z0bnpFcCsxaEpudERnbGI1UnoxN3gwQVMy
YklvWGRNcDQrU1NJPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJtSVVKbG1OMzNINExvZ0dhaG5MamdmK3R4SmJwci93MCJ9LCJj
aXBoZXJ0ZXh0IjoiM3FtS2FidXRuYm1WT1IvTkZGM2NDaUErTXp1WWQ5L0VERDVI
MVlUSGhQVzZsSzAvdjVqdDZCQzlsME12NGV5am9qZkl0d3B6a2JJOXQrZGx5VXZ3
VUgvMWZjbkFZT2dEdXRLQzkvSkNiOE02SVY2VHpVaDF5c0ZFWDFzeG9xb1FzeUpL
bjM0UVlldFNlaVdDaGtmUHUyZXByQjFEV0pwekdzTGZIakxNVTkzOEdmNk1xM1A0
N0ZSd2syZzY1cFZnSGMwVWV1L1N1OUs0Zmc9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
";
        let older = "-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjozMjc2OCwiciI6
OCwicCI6MX0sInNhbHQiOiIrRFJrTXNRZmNUNTNKNCs1Y3VkUnlnWTUyWUMrK0RW
TmxaSTN4VnlwWFlvPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJnNTFORnBqQUxlemhvbGVWTWVjUFJUNUErMVhMcDAxeiJ9LCJj
aXBoZXJ0ZXh0Ijoib0YvN09mOGlQRDlkNlc2Mk5SWGVibEszWXZmNFFucTZORm16
Q0VyV2FTVUJOZTNXSFJiRVNYK2dJOCszejg4TDBDVXlWdm9LTHhuR0xhVnhnczVD
YUdyekcrMWxFTEI1cGRMVmZXd1VlQzlLelNab0hxZHZLaUsvUmNodVhpS0VqYmdv
ajNGd2pMcmhEYkY5a2lVWk93REpuT01kUkoxNnI3emxjRHdwT3htOXFrbWFDWDlB
VjQ4b1RXVG0rQXExOHlDZE50MDYybGdudVE9PSJ9
-----END ENCRYPTED COSIGN PRIVATE KEY-----
";
        let public = |pem: &str, passphrase| {
            let key = PrivateKey::parse(pem, passphrase)?;
            assert!(key.public().verifies(b"m", &key.sign(b"m").unwrap()));
            Ok(key.public().to_base64())
        };
        let of_empty = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGmsWpZNuu+SUX70n3lVK4JLsaoV7T+rhea2rQUu29EQiatoLB06QdsmSd+GsQGlQzfcDtsKPzb+B2zLggrWZjg==";
        let of_older = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEI3sxu+p/GFrJyfgmSWr4qMzwbnd/pRAShSG6tHcrlhBSoRCAiVYOoQR7514Uz6ft2tQlnoJLHmHcFqqy0/ERJA==";
        assert_eq!(public(empty, None).as_deref(), Ok(of_empty));
        assert_eq!(public(older, Some("123")).as_deref(), Ok(of_older));
        assert_eq!(public(older, None), Err("it is encrypted, and no passphrase is set"));
        assert_eq!(public(older, Some("1234")), Err("the passphrase is wrong"));
    }

    #[test]
    fn what_is_no_key_says_what_it_is() {
        let pem = PrivateKey::generate().unwrap();
        assert_eq!(PublicKey::parse(&pem).unwrap_err(), "it is a private key");
        for (text, says) in [
            ("", "not a private key"),
            (
                "-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED COSIGN PRIVATE KEY-----",
                "not a key that cosign has encrypted",
            ),
            ("-----BEGIN ENCRYPTED X KEY-----\nAAAA\n-----END ENCRYPTED X KEY-----", "not a private key"),
            ("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----", "not PKCS#8"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "neither"),
            ("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----", "not a private key"),
        ] {
            let error = PrivateKey::parse(text, None).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
