//! Signatures as cosign attaches them: an in-toto statement about a manifest's digest in a DSSE envelope
//! in a sigstore bundle 0.3, by a key.
//! (<https://github.com/secure-systems-lab/dsse>, <https://github.com/sigstore/protobuf-specs>)

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::manifest::{Descriptor, MANIFEST, MANIFEST_BYTES, Manifest};
use crate::{Client, PrivateKey, PublicKey, Pull, Reference, RegistryError, Resolved, Sha256, Store};

/// The type of a bundle, as an artifact and as its layer.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What statements are about that say where something comes from.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// What statements are about that are signatures and nothing more.
pub(crate) const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PAYLOAD: &str = "application/vnd.in-toto+json";
/// The configuration of what needs none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_BYTES: &[u8] = b"{}";
/// Bytes of a bundle.
const BUNDLE_BYTES: u64 = 1 << 20;
/// Signatures of one module that are looked at.
const SIGNATURES: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default)]
    public_key: Option<Hint>,
    #[serde(default)]
    tlog_entries: Vec<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Hint {
    #[serde(default)]
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    sig: String,
    #[serde(default)]
    keyid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    #[serde(default)]
    predicate: serde_json::Value,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// Signs a statement about a manifest. Gives a bundle.
pub fn sign(
    key: &PrivateKey,
    manifest: Sha256,
    kind: &str,
    predicate: serde_json::Value,
) -> Result<Vec<u8>, RegistryError> {
    let statement = json!({
        "_type": STATEMENT, "subject": [{ "digest": { "sha256": manifest.hex() } }],
        "predicateType": kind, "predicate": predicate,
    });
    let statement = statement.to_string();
    let signature = key.sign(&authenticated(PAYLOAD, statement.as_bytes()))?;
    let bundle = Bundle {
        media_type: BUNDLE.to_owned(),
        verification_material: Material {
            public_key: Some(Hint { hint: key.public().id() }),
            tlog_entries: Vec::new(),
        },
        dsse_envelope: Envelope {
            payload: STANDARD.encode(&statement),
            payload_type: PAYLOAD.to_owned(),
            signatures: vec![Signed { sig: STANDARD.encode(signature), keyid: key.public().id() }],
        },
    };
    Ok(serde_json::to_vec(&bundle).unwrap_or_default())
}

/// Whether a bundle is a signature of the manifest by the key. What is wrong with it, if not.
pub fn verify(bundle: &[u8], key: &PublicKey, manifest: Sha256) -> Result<(), &'static str> {
    predicate(bundle, key, manifest, SIGN).map(drop)
}

/// What a bundle of a certain kind says of the manifest, if it is by the key. What is wrong with it, if not.
pub fn predicate(
    bundle: &[u8],
    key: &PublicKey,
    manifest: Sha256,
    kind: &str,
) -> Result<serde_json::Value, &'static str> {
    let bundle: Bundle = serde_json::from_slice(bundle).map_err(|_| "it is not a bundle made with a key")?;
    if bundle.media_type != BUNDLE {
        return Err("it is a bundle of an unsupported version");
    }
    let envelope = bundle.dsse_envelope;
    let [signed] = envelope.signatures.as_slice() else {
        return Err("it does not have exactly one signature");
    };
    if envelope.payload_type != PAYLOAD {
        return Err("the signed content is not a statement");
    }
    let payload = decoded(&envelope.payload).ok_or("its payload is not Base64")?;
    let signature = decoded(&signed.sig).ok_or("its signature is not Base64")?;
    // Nothing of what is signed is believed before this.
    if !key.verifies(&authenticated(PAYLOAD, &payload), &signature) {
        return Err("it was made with another key, or was changed");
    }
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|_| "the signed content is not a statement")?;
    if statement.kind != STATEMENT || statement.predicate_type != kind {
        return Err("the signed statement is of a different type");
    }
    let [subject] = statement.subject.as_slice() else { return Err("it does not have exactly one subject") };
    match subject.digest.get("sha256") {
        Some(hex) if *hex == manifest.hex() => Ok(statement.predicate),
        _ => Err("it has a different subject"),
    }
}

/// Whether a bundle claims to be a signature and nothing more. Nothing of it was verified.
pub(crate) fn claims_to_sign(bundle: &[u8]) -> bool {
    let claimed = || -> Option<String> {
        let bundle: Bundle = serde_json::from_slice(bundle).ok()?;
        let statement = decoded(&bundle.dsse_envelope.payload)?;
        Some(serde_json::from_slice::<Statement>(&statement).ok()?.predicate_type)
    };
    // What cannot be read is a bad signature.
    claimed().is_none_or(|kind| kind == SIGN)
}

/// What is really signed: the type and the payload with their lengths.
fn authenticated(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// DSSE allows both alphabets.
fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// The manifest that attaches a bundle to a module's. `created`: RFC 3339.
pub fn attachment(subject: &Resolved, bundle: &[u8], kind: &str, created: String) -> Manifest {
    let mut annotations = BTreeMap::new();
    annotations.insert("dev.sigstore.bundle.content".to_owned(), "dsse-envelope".to_owned());
    annotations.insert("dev.sigstore.bundle.predicateType".to_owned(), kind.to_owned());
    annotations.insert("org.opencontainers.image.created".to_owned(), created);
    Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        artifact_type: Some(BUNDLE.to_owned()),
        config: Descriptor::of(EMPTY, EMPTY_BYTES),
        layers: vec![Descriptor::of(BUNDLE, bundle)],
        subject: Some(subject.descriptor()),
        annotations,
    }
}

/// Signs a module, where it is and in the local store. False if the key has signed it there already.
pub async fn attach(
    client: &Client,
    store: &Store,
    subject: &Resolved,
    key: &PrivateKey,
    created: String,
) -> Result<bool, RegistryError> {
    // One that only the local store has is no use to others.
    if at_registry(client, subject)
        .await?
        .iter()
        .any(|found| verify(&found.bundle, key.public(), subject.digest).is_ok())
    {
        return Ok(false);
    }
    let bundle = sign(key, subject.digest, SIGN, json!({}))?;
    attach_bundle(client, store, subject, &bundle, SIGN, created).await?;
    Ok(true)
}

/// Attaches a bundle to a module, where it is and in the local store.
pub(crate) async fn attach_bundle(
    client: &Client,
    store: &Store,
    subject: &Resolved,
    bundle: &[u8],
    kind: &str,
    created: String,
) -> Result<(), RegistryError> {
    let manifest = attachment(subject, bundle, kind, created);
    let (reference, mut pushed) = (subject.exact(), Default::default());
    let what = format!("the signature of {}", subject.reference);
    client.push_blob(&reference, &what, &bundle.to_vec().into(), &mut pushed).await?;
    client.push_blob(&reference, &what, &EMPTY_BYTES.to_vec().into(), &mut pushed).await?;
    client.attach(&reference, &manifest).await?;
    keep(store, &manifest, bundle)
}

/// A bundle that is attached to a module.
#[derive(Clone, Debug)]
pub struct Found {
    pub bundle: Vec<u8>,
    /// What attaches it, if it is not in the local store yet.
    manifest: Option<Manifest>,
}

impl Found {
    /// Keeps it in the local store, beside what it signs.
    pub fn keep(&self, store: &Store) -> Result<(), RegistryError> {
        match &self.manifest {
            Some(manifest) => keep(store, manifest, &self.bundle),
            None => Ok(()),
        }
    }
}

fn keep(store: &Store, manifest: &Manifest, bundle: &[u8]) -> Result<(), RegistryError> {
    store.put(bundle)?;
    store.put(EMPTY_BYTES)?;
    let bytes = manifest.to_bytes();
    store.put(&bytes)?;
    let mut descriptor = Descriptor::of(MANIFEST, &bytes);
    descriptor.artifact_type = manifest.artifact_type.clone();
    store.keep_referrer(descriptor)
}

/// The bundles that are attached to a module, here and, if it is asked, at the registry. Those that
/// cannot be read are none; a registry that cannot be asked is an error.
pub async fn signatures(
    client: &Client,
    store: &Store,
    subject: &Resolved,
    pull: Pull,
) -> Result<Vec<Found>, RegistryError> {
    let kept = kept(store, subject.digest)?.into_iter();
    let mut bundles: Vec<_> = kept.map(|bundle| Found { bundle, manifest: None }).collect();
    if pull == Pull::Never {
        return Ok(bundles);
    }
    for found in at_registry(client, subject).await? {
        if bundles.iter().all(|there| there.bundle != found.bundle) {
            bundles.push(found);
        }
    }
    Ok(bundles)
}

/// The same that are attached to it at the registry.
pub(crate) async fn at_registry(client: &Client, subject: &Resolved) -> Result<Vec<Found>, RegistryError> {
    let mut bundles = Vec::new();
    let reference = subject.exact();
    let mut found = client.referrers(&reference, subject.digest).await?;
    found.retain(|descriptor| {
        // Lists that registries make do not always say the type.
        descriptor.artifact_type.as_deref().is_none_or(|is| is == BUNDLE) && descriptor.size <= MANIFEST_BYTES
    });
    for descriptor in found.into_iter().take(SIGNATURES) {
        match bundle(client, &reference, subject.digest, &descriptor).await {
            Ok((manifest, bundle)) => bundles.push(Found { bundle, manifest: Some(manifest) }),
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Busy { .. })) => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(bundles)
}

/// One bundle from a registry.
async fn bundle(
    client: &Client,
    reference: &Reference,
    subject: Sha256,
    of: &Descriptor,
) -> Result<(Manifest, Vec<u8>), RegistryError> {
    let fetched = client.manifest(&reference.at(of.digest)).await?;
    let what = format!("the signature {}", of.digest);
    let manifest = Manifest::parse(&what, &fetched.bytes, fetched.media_type.as_deref())?;
    let layer = layer(&manifest, subject).ok_or_else(|| RegistryError::NotAModule {
        what: what.clone(),
        reason: "it is not a signature".to_owned(),
    })?;
    let bytes = client.blob(reference, &what, layer, BUNDLE_BYTES).await?;
    Ok((manifest, bytes.to_vec()))
}

/// The bundles in the local store.
pub fn kept(store: &Store, subject: Sha256) -> Result<Vec<Vec<u8>>, RegistryError> {
    let mut bundles = Vec::new();
    for (_, layer) in kept_manifests(store, subject)? {
        bundles.extend(store.blob(&layer, BUNDLE_BYTES)?);
    }
    Ok(bundles)
}

/// The manifests of the local store that attach bundles to another one, with their layers.
pub(crate) fn kept_manifests(
    store: &Store,
    subject: Sha256,
) -> Result<Vec<(Descriptor, Descriptor)>, RegistryError> {
    let mut found = Vec::new();
    let manifests = store.index()?.manifests.into_iter();
    for descriptor in manifests.filter(|there| there.artifact_type.as_deref() == Some(BUNDLE)) {
        let Some(bytes) = store.blob(&descriptor, MANIFEST_BYTES)? else { continue };
        let Ok(manifest) = Manifest::parse("a signature", &bytes, None) else { continue };
        if let Some(layer) = layer(&manifest, subject) {
            found.push((descriptor, layer.clone()));
        }
    }
    Ok(found)
}

/// The layer of a manifest that attaches a bundle to this subject.
fn layer(manifest: &Manifest, subject: Sha256) -> Option<&Descriptor> {
    let is_about = manifest.subject.as_ref().is_some_and(|of| of.digest == subject);
    match manifest.layers.as_slice() {
        [layer] if is_about && layer.media_type == BUNDLE && layer.size <= BUNDLE_BYTES => Some(layer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PrivateKey {
        PrivateKey::parse(&PrivateKey::generate().unwrap(), None).unwrap()
    }

    #[test]
    fn a_bundle_is_good_for_one_key_and_one_manifest() {
        let (key, other) = (key(), key());
        let (subject, another) = (Sha256::of(b"manifest"), Sha256::of(b"another"));
        let bundle = sign(&key, subject, SIGN, json!({})).unwrap();
        assert_eq!(verify(&bundle, key.public(), subject), Ok(()));
        assert_eq!(
            verify(&bundle, other.public(), subject),
            Err("it was made with another key, or was changed")
        );
        assert_eq!(verify(&bundle, key.public(), another), Err("it has a different subject"));
    }

    #[test]
    fn no_byte_of_what_is_signed_can_be_changed() {
        let key = key();
        let subject = Sha256::of(b"manifest");
        let bundle: serde_json::Value =
            serde_json::from_slice(&sign(&key, subject, SIGN, json!({})).unwrap()).unwrap();
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = bundle.clone();
            change(&mut changed);
            verify(changed.to_string().as_bytes(), key.public(), subject)
        };
        let payload = decoded(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
        for at in 0..payload.len() {
            let mut bytes = payload.clone();
            bytes[at] ^= 1;
            let text = STANDARD.encode(bytes);
            assert!(changed(&|b| b["dsseEnvelope"]["payload"] = text.clone().into()).is_err(), "{at}");
        }
        let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
        type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
        let cases: &[Change<'_>] = &[
            &|b| b["dsseEnvelope"]["payloadType"] = "text/plain".into(),
            &|b| b["dsseEnvelope"]["signatures"] = json!([]),
            &|b| b["dsseEnvelope"]["signatures"] = json!([signature, signature]),
            &|b| b["dsseEnvelope"]["signatures"][0]["sig"] = "".into(),
            &|b| b["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.1+json".into(),
            &|b| *b = json!({}),
        ];
        for change in cases {
            assert!(changed(change).is_err());
        }
        // Names of keys are hints, and decide nothing.
        assert!(changed(&|b| b["dsseEnvelope"]["signatures"][0]["keyid"] = "x".into()).is_ok());
        // A statement of another kind by the same key.
        let statement = json!({
            "_type": STATEMENT, "subject": [{ "digest": { "sha256": subject.hex() } }],
            "predicateType": "https://slsa.dev/provenance/v1", "predicate": {},
        })
        .to_string();
        let signature = key.sign(&authenticated(PAYLOAD, statement.as_bytes())).unwrap();
        let other = changed(&|b| {
            b["dsseEnvelope"]["payload"] = STANDARD.encode(&statement).into();
            b["dsseEnvelope"]["signatures"][0]["sig"] = STANDARD.encode(&signature).into();
        });
        assert_eq!(other, Err("the signed statement is of a different type"));
        let bundle = sign(&key, subject, PROVENANCE, json!({ "a": 1 })).unwrap();
        assert!(verify(&bundle, key.public(), subject).is_err() && !claims_to_sign(&bundle));
        assert_eq!(predicate(&bundle, key.public(), subject, PROVENANCE), Ok(json!({ "a": 1 })));
        assert!(claims_to_sign(b"{}"));
    }
}
