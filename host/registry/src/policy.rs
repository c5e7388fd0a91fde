//! Whose signatures a module needs, by where it comes from. It is decided when its manifest is known and
//! before anything else of it is fetched. Where a signature is required, whatever keeps it from being
//! found is a refusal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wfhost_world::private;

use crate::reference::{SCHEME, TLS_PORT, has_usual_port, is_repository};
use crate::{
    Client, PublicKey, Pull, Reference, RegistryError, Resolved, Sha256, Store, provenance, signature,
};

/// How much a signature matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Off,
    #[default]
    Warn,
    Require,
}

/// Somebody whose key is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signer {
    pub name: String,
    pub key: PublicKey,
}

/// What holds for modules of some place.
#[derive(Clone, Debug)]
pub struct Rule {
    pub places: Pattern,
    pub level: Level,
    /// One of these has to have signed; anybody who is known if it is empty.
    pub signers: Vec<Signer>,
    /// Who signed has to say as well what it was built from.
    pub provenance: bool,
}

/// Places of modules: `ghcr.io/acme/*` has all repositories below `acme`; elsewhere `*` stands for text
/// without a slash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

impl Pattern {
    /// Reads one as people write references, but without a version. What no reference can fit is refused, because a
    /// rule that never applies protects nothing.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        const PLACES: &str = "it has to name a registry and repositories, like ghcr.io/acme/*";
        let parts = text.strip_prefix(SCHEME).unwrap_or(text).split_once('/');
        let (registry, repositories) =
            parts.filter(|(registry, rest)| !registry.is_empty() && !rest.is_empty()).ok_or(PLACES)?;
        let registry = match registry.contains('*') {
            true if Reference::is_registry(&registry.replace('*', "1")) => {
                Some(registry.to_ascii_lowercase())
            }
            true => None,
            false => Reference::canonical_registry(registry),
        };
        let registry = registry.ok_or("the registry's name is invalid")?;
        if repositories.contains([':', '@']) {
            return Err("it holds for all versions of a module: leave out the tag or digest");
        }
        // A letter fits wherever anything does.
        if !is_repository(&repositories.replace('*', "x")) {
            return Err(
                "a repository's name consists of lower-case letters, digits, and . _ - between them, and \
                        no part of it is empty",
            );
        }
        Ok(Self(format!("{registry}/{repositories}")))
    }

    /// Whether what a reference names is among them, in any version.
    pub fn has(&self, reference: &Reference) -> bool {
        let (registry, repository) = (reference.registry(), reference.repository());
        // Whoever writes the usual port, or any port, means it as well.
        self.fits(&reference.place())
            || (has_usual_port(registry) && self.fits(&format!("{registry}:{TLS_PORT}/{repository}")))
    }

    fn fits(&self, place: &str) -> bool {
        let (parts, below) = match self.0.strip_suffix("/*") {
            Some(parts) => (parts, true),
            None => (self.0.as_str(), false),
        };
        let (parts, of): (Vec<_>, Vec<_>) = (parts.split('/').collect(), place.split('/').collect());
        let fits = if below { of.len() > parts.len() } else { of.len() == parts.len() };
        fits && parts.iter().zip(&of).all(|(pattern, text)| is_like(pattern, text))
    }
}

/// Whether text is like a pattern in which `*` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<_> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What the configuration says of signatures. Rules of several files hold together.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// What holds where no rule does.
    pub default: Level,
    pub known: Vec<Signer>,
    pub rules: Vec<Rule>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Whose signatures are good.
    pub signers: Vec<Signer>,
    /// What would be a refusal if a signature were required.
    pub warning: Option<String>,
    /// There was no signature at all, which does not change by itself: it is enough to be told when the module
    /// comes here.
    pub is_unsigned: bool,
    /// The registry was asked for signatures, and answered. Else those that are not here may be there.
    pub was_asked: bool,
}

impl Rules {
    /// How much a signature matters at a place: what the strictest of the rules for it says.
    pub fn level(&self, reference: &Reference) -> Level {
        self.of(reference).map(|rule| rule.level).max().unwrap_or(self.default)
    }

    fn of<'a>(&'a self, reference: &Reference) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.places.has(reference))
    }

    /// Those whose keys are known by a name.
    pub fn named(&self, name: &str) -> Vec<Signer> {
        let known = self.known.iter().chain(self.rules.iter().flat_map(|rule| &rule.signers));
        let mut named: Vec<Signer> = Vec::new();
        for signer in known.filter(|signer| signer.name == name) {
            if !named.contains(signer) {
                named.push(signer.clone());
            }
        }
        named
    }

    /// The same, but that those whom a rule names have to have signed what comes from its places, also where the
    /// rule only warns.
    pub(crate) fn required(&self) -> Self {
        let names_and_warns = |rule: &&Rule| rule.level == Level::Warn && !rule.signers.is_empty();
        // What a module was built from stays as important as it was.
        let required = self.rules.iter().filter(names_and_warns).map(|rule| Rule {
            level: Level::Require,
            provenance: false,
            ..rule.clone()
        });
        let rules = self.rules.iter().cloned().chain(required).collect();
        Self { rules, ..self.clone() }
    }

    /// Whether the configuration has this key for what comes from there.
    fn has(&self, reference: &Reference, signer: &Signer) -> bool {
        let of_rules = self.of(reference).flat_map(|rule| &rule.signers);
        self.known.iter().chain(of_rules).any(|known| known.key == signer.key)
    }

    /// Judges a module by its signatures. `before`: one of these has to have signed it, as who signed what came from
    /// there first; anybody may if there is none. `also`: signatures of these are looked for besides.
    pub async fn judge(
        &self,
        client: &Client,
        store: &Store,
        module: &Resolved,
        pull: Pull,
        before: &[Signer],
        also: &[Signer],
    ) -> Result<Verdict, RegistryError> {
        let level = self.level(&module.reference);
        if level == Level::Off {
            return Ok(Verdict::default());
        }
        let mut keys: Vec<&Signer> = self.known.iter().collect();
        keys.extend(self.of(&module.reference).flat_map(|rule| &rule.signers));
        keys.extend(before.iter().chain(also));
        let good = |bundles: &[Vec<u8>]| {
            let mut signers: Vec<Signer> = Vec::new();
            for signer in &keys {
                let is_there = signers.iter().any(|there| there.key == signer.key);
                if !is_there
                    && bundles.iter().any(|b| signature::verify(b, &signer.key, module.digest).is_ok())
                {
                    signers.push((*signer).clone());
                }
            }
            signers
        };
        let mut bundles = signature::kept(store, module.digest)?;
        let mut signers = good(&bundles);
        let (mut trouble, mut was_asked) = (None, false);
        // Without keys there is nothing to look for.
        if self.missing(module, &signers, before).is_some() && pull != Pull::Never && !keys.is_empty() {
            match signature::signatures(client, store, module, pull).await {
                Ok(found) => {
                    was_asked = true;
                    // Others are of no use later either.
                    for one in &found {
                        if !good(std::slice::from_ref(&one.bundle)).is_empty() {
                            one.keep(store)?;
                        }
                    }
                    bundles = found.into_iter().map(|found| found.bundle).collect();
                    signers = good(&bundles);
                }
                Err(error) if level == Level::Require => return Err(error),
                Err(error) => trouble = Some(error),
            }
        }
        let Some(missing) = self.missing(module, &signers, before) else {
            let warning = self.unsaid(client, store, module, &signers, pull).await?;
            return Ok(Verdict { signers, warning, is_unsigned: false, was_asked });
        };
        if let Missing::Before(before) = missing {
            // Their signature may be there.
            if let Some(error) = trouble {
                return Err(error);
            }
            return Err(RegistryError::SignerChanged {
                reference: module.reference.to_string(),
                before: before.to_owned(),
                now: signers.iter().map(|signer| signer.name.clone()).collect(),
            });
        }
        let wanted = match missing {
            Missing::OneOf(rule) => rule.signers.iter().map(|signer| signer.name.clone()).collect(),
            _ => Vec::new(),
        };
        // What says something else is no attempt at a signature.
        bundles.retain(|bundle| signature::claims_to_sign(bundle));
        let reason = bundles.first().map(|bundle| {
            let tried = keys.first().map(|signer| signature::verify(bundle, &signer.key, module.digest));
            match tried {
                Some(Err(reason)) => reason,
                _ => "none was made with a known key",
            }
        });
        let refusal = match reason {
            None => RegistryError::Unsigned { reference: module.reference.to_string(), wanted },
            Some(reason) => RegistryError::BadSignature {
                reference: module.reference.to_string(),
                wanted,
                count: bundles.len(),
                reason,
            },
        };
        if level == Level::Require {
            return Err(refusal);
        }
        let is_unsigned = trouble.is_none() && matches!(refusal, RegistryError::Unsigned { .. });
        let warning = Some(trouble.unwrap_or(refusal).to_string());
        Ok(Verdict { signers, warning, is_unsigned, was_asked })
    }

    /// Fails, or warns, if nobody who signed says what it was built from where a rule wants that.
    async fn unsaid(
        &self,
        client: &Client,
        store: &Store,
        module: &Resolved,
        signers: &[Signer],
        pull: Pull,
    ) -> Result<Option<String>, RegistryError> {
        let levels = self.of(&module.reference).filter(|rule| rule.provenance).map(|rule| rule.level);
        let Some(level) = levels.max().filter(|level| *level != Level::Off) else { return Ok(None) };
        let refusal = match provenance::find(client, store, module, signers, pull).await {
            Ok(said) if !said.is_empty() => return Ok(None),
            Ok(_) => RegistryError::NoProvenance { reference: module.reference.to_string() },
            Err(error) => error,
        };
        if level == Level::Require { Err(refusal) } else { Ok(Some(refusal.to_string())) }
    }

    /// What good signatures do not fulfil: first what a rule requires.
    fn missing<'a>(
        &'a self,
        module: &Resolved,
        good: &[Signer],
        before: &'a [Signer],
    ) -> Option<Missing<'a>> {
        let is_good = |wanted: &Signer| good.iter().any(|signer| signer.key == wanted.key);
        let unmet = |level: Level| {
            self.of(&module.reference).find(|rule| {
                rule.level == level && !rule.signers.is_empty() && !rule.signers.iter().any(is_good)
            })
        };
        if let Some(rule) = unmet(Level::Require) {
            return Some(Missing::OneOf(rule));
        }
        if let Some(first) = before.first()
            && !before.iter().any(is_good)
        {
            return Some(Missing::Before(&first.name));
        }
        if let Some(rule) = unmet(Level::Warn) {
            return Some(Missing::OneOf(rule));
        }
        // That somebody was seen before is no reason to trust him: where a signature is required, his key may have been
        // taken out of the configuration.
        let is_required = self.level(&module.reference) == Level::Require;
        let counts = |signer: &Signer| !is_required || self.has(&module.reference, signer);
        (!good.iter().any(counts)).then_some(Missing::Anybody)
    }
}

enum Missing<'a> {
    /// Somebody of this name.
    Before(&'a str),
    OneOf(&'a Rule),
    Anybody,
}

/// Who signed first what came from a place, as known hosts of SSH are kept.
#[derive(Clone, Debug)]
pub struct FirstSeen {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    /// SubjectPublicKeyInfo in Base64.
    key: String,
    /// The manifest that was seen first.
    manifest: Sha256,
}

impl FirstSeen {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn read(&self) -> Result<BTreeMap<String, Entry>, RegistryError> {
        if !self.path.exists() {
            return Ok(BTreeMap::new());
        }
        let text = private::read(&self.path).map_err(|error| self.failed(&error))?;
        serde_json::from_str(&text).map_err(|error| self.failed(&format!("it cannot be read: {error}")))
    }

    /// Who signed first what came from the place of a reference.
    pub fn of(&self, reference: &Reference) -> Result<Option<Signer>, RegistryError> {
        let Some(Entry { name, key, .. }) = self.read()?.remove(&reference.place()) else { return Ok(None) };
        match PublicKey::parse(&key) {
            Ok(key) => Ok(Some(Signer { name, key })),
            Err(reason) => Err(self.failed(&reason)),
        }
    }

    /// Keeps who signed what came from the place of a reference: the first of `signers`, if none of them is kept.
    /// `replace`: also in the place of somebody else. Two processes do not lose one another's entries.
    ///
    /// # Errors
    ///
    /// Somebody else was kept in the meantime, and is not to be replaced.
    pub fn keep(
        &self,
        reference: &Reference,
        signers: &[Signer],
        manifest: Sha256,
        replace: bool,
    ) -> Result<(), RegistryError> {
        let Some(first) = signers.first() else { return Ok(()) };
        let is_kept = |kept: &Signer| signers.iter().any(|signer| signer.key == kept.key);
        // Mostly there is nothing to do.
        if self.of(reference)?.is_some_and(|kept| is_kept(&kept)) {
            return Ok(());
        }
        let _lock = crate::logins::lock_beside(&self.path).map_err(|error| self.failed(&error))?;
        if let Some(kept) = self.of(reference)? {
            if is_kept(&kept) {
                return Ok(());
            }
            if !replace {
                return Err(RegistryError::SignerChanged {
                    reference: reference.to_string(),
                    before: kept.name,
                    now: signers.iter().map(|signer| signer.name.clone()).collect(),
                });
            }
        }
        let mut entries = self.read()?;
        let entry = Entry { name: first.name.clone(), key: first.key.to_base64(), manifest };
        entries.insert(reference.place(), entry);
        self.write(&entries)
    }

    /// Keeps nobody for the place of a reference.
    pub fn forget(&self, reference: &Reference) -> Result<(), RegistryError> {
        if !self.read()?.contains_key(&reference.place()) {
            return Ok(());
        }
        let _lock = crate::logins::lock_beside(&self.path).map_err(|error| self.failed(&error))?;
        let mut entries = self.read()?;
        entries.remove(&reference.place());
        self.write(&entries)
    }

    fn write(&self, entries: &BTreeMap<String, Entry>) -> Result<(), RegistryError> {
        let text = serde_json::to_string_pretty(entries).unwrap_or_default();
        crate::logins::write_private(&self.path, text.as_bytes()).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> RegistryError {
        RegistryError::Key { path: self.path.clone(), reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_end_where_names_end() {
        for (pattern, place, has) in [
            ("ghcr.io/acme/*", "ghcr.io/acme/reviewer", true),
            ("ghcr.io/acme/*", "ghcr.io/acme/team/reviewer", true),
            ("ghcr.io/acme/*", "ghcr.io/acme", false),
            ("ghcr.io/acme/*", "ghcr.io/acme-evil/reviewer", false),
            ("ghcr.io/acme/*", "ghcr.io.evil.com/acme/reviewer", false),
            ("ghcr.io/*", "ghcr.io/a/b/c", true),
            ("*/*", "localhost:5000/a/b", true),
            ("*.acme.com/*", "eu.acme.com/x", true),
            ("*.acme.com/*", "evilacme.com/x", false),
            ("localhost:*/me/hello", "localhost:5000/me/hello", true),
            ("localhost:*/me/hello", "localhost:5000/me/hello/x", false),
            ("ghcr.io/acme/re*er", "ghcr.io/acme/reviewer", true),
            ("ghcr.io/acme/re*x*er", "ghcr.io/acme/reviewer", false),
            ("ghcr.io/a*a", "ghcr.io/a", false),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().has(&at(place)), has, "{pattern} {place}");
        }
    }

    fn at(place: &str) -> Reference {
        format!("oci://{place}:1").parse().unwrap()
    }

    #[test]
    fn a_pattern_means_the_places_that_references_written_alike_mean() {
        for (pattern, place) in [
            ("GHCR.io/acme/*", "ghcr.io/acme/hello"),
            ("oci://ghcr.io/acme/*", "ghcr.io/acme/hello"),
            ("oci://GHCR.IO/acme/hello", "GHCR.io/acme/hello"),
            ("*.GHCR.io/*", "eu.ghcr.io/acme/hello"),
            ("ghcr.io:443/acme/*", "ghcr.io/acme/hello"),
            ("ghcr.io/acme/*", "ghcr.io:443/acme/hello"),
            ("ghcr.io:*/acme/*", "ghcr.io:443/acme/hello"),
            ("*:443/acme/*", "ghcr.io/acme/hello"),
            ("localhost:05000/*", "localhost:5000/hello"),
            ("[0:0:0:0:0:0:0:1]:5000/*", "[::1]:5000/hello"),
        ] {
            assert!(Pattern::new(pattern).unwrap().has(&at(place)), "{pattern} {place}");
        }
        for (pattern, place) in [
            ("ghcr.io:8443/*", "ghcr.io/hello"),
            ("ghcr.io/*", "ghcr.io:8443/hello"),
            ("localhost:443/*", "localhost/hello"),
        ] {
            assert!(!Pattern::new(pattern).unwrap().has(&at(place)), "{pattern} {place}");
        }
    }

    #[test]
    fn a_pattern_that_no_reference_can_fit_is_refused() {
        for (text, reason) in [
            ("", "like ghcr.io/acme/*"),
            ("*", "like ghcr.io/acme/*"),
            ("ghcr.io", "like ghcr.io/acme/*"),
            ("ghcr.io/", "like ghcr.io/acme/*"),
            ("/x", "like ghcr.io/acme/*"),
            ("oci://ghcr.io", "like ghcr.io/acme/*"),
            ("https://ghcr.io/acme/*", "the registry's name is invalid"),
            (" ghcr.io/acme/*", "the registry's name is invalid"),
            ("gh_cr.io/*", "the registry's name is invalid"),
            ("*_x.io/*", "the registry's name is invalid"),
            ("ghcr.io/acme/hello:1", "leave out the tag or digest"),
            ("ghcr.io/acme/*:1", "leave out the tag or digest"),
            ("ghcr.io/acme/hello@sha256:12", "leave out the tag or digest"),
            ("ghcr.io/acme/hello@^1", "leave out the tag or digest"),
            ("ghcr.io/acme/", "no part of it is empty"),
            ("ghcr.io//acme/*", "no part of it is empty"),
            ("ghcr.io/acme//*", "no part of it is empty"),
            ("ghcr.io/Acme/*", "lower-case"),
            ("ghcr.io/acme/* ", "lower-case"),
            ("ghcr.io/acme/_*", "lower-case"),
        ] {
            let refused = Pattern::new(text);
            assert!(refused.clone().is_err_and(|said| said.contains(reason)), "{text:?}: {refused:?}");
        }
    }

    #[test]
    fn many_that_see_signers_at_once_lose_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/signers.json");
        let key = crate::PrivateKey::parse(&crate::PrivateKey::generate().unwrap(), None).unwrap();
        let signer = Signer { name: "acme".to_owned(), key: key.public().clone() };
        let of = |number: usize| format!("ghcr.io/a/b{number}:1").parse::<Reference>().unwrap();
        std::thread::scope(|scope| {
            for number in 0..16 {
                let (first_seen, signer) = (FirstSeen::new(path.clone()), &signer);
                scope.spawn(move || {
                    let signers = std::slice::from_ref(signer);
                    first_seen.keep(&of(number), signers, Sha256::of(b"m"), false).unwrap();
                });
            }
        });
        let first_seen = FirstSeen::new(path);
        for number in 0..16 {
            assert_eq!(first_seen.of(&of(number)).unwrap().as_ref(), Some(&signer), "{number}");
        }
        // Nobody takes the place of somebody else unless that is said.
        let other = crate::PrivateKey::parse(&crate::PrivateKey::generate().unwrap(), None).unwrap();
        let other = [Signer { name: "bob".to_owned(), key: other.public().clone() }];
        let refused = first_seen.keep(&of(1), &other, Sha256::of(b"m"), false);
        assert!(matches!(refused, Err(RegistryError::SignerChanged { .. })));
        first_seen.keep(&of(1), &other, Sha256::of(b"m"), true).unwrap();
        assert_eq!(first_seen.of(&of(1)).unwrap().unwrap().name, "bob");
    }

    #[test]
    fn the_strictest_rule_counts_and_rules_go_before_the_default() {
        let rule = |places: &str, level| Rule {
            places: Pattern::new(places).unwrap(),
            level,
            signers: Vec::new(),
            provenance: false,
        };
        let rules = Rules {
            default: Level::Require,
            known: Vec::new(),
            rules: vec![rule("a.io/*", Level::Off), rule("a.io/x/*", Level::Require)],
        };
        let level = |text: &str| rules.level(&text.parse().unwrap());
        assert_eq!(level("a.io/y:1"), Level::Off);
        assert_eq!(level("a.io/x/y:1"), Level::Require);
        assert_eq!(level("b.io/y:1"), Level::Require);
    }
}
