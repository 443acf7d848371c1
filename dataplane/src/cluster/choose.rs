//! Revisions that are there, keys and what was in force in; what is in force next out, with what every scope is to be
//! told about it. Pure.
//!
//! Guarantees:
//! - of each scope the highest sequence runs that includes this pod, is understood, has its keys, and fits the others;
//! - what is refused leaves the last good one of its scope in force, and every other scope alone;
//! - a scope goes back to a lower sequence only when the Revision it ran was deleted, and ends only when it has none left.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_crds::config::{AccessConfig, AppConfig};
use millrace_crds::resolved::PrivacyKeys;
use millrace_crds::state::{RefusedRevision, RunningRevision, ScopeState, takes};

use super::offer::{Body, Offer};
use super::secrets::{Secrets, usable};
use crate::config::{App, Config, ConfigError};
use crate::telemetry;

/// Revisions by the name of the object.
pub type Offers = BTreeMap<String, Arc<Offer>>;

/// What every scope runs.
pub type InForce = BTreeMap<String, Running>;

/// What one scope runs.
#[derive(Clone)]
pub struct Running {
    sequence: i64,
    hash: String,
    part: Part,
}

/// A Revision made ready to run.
#[derive(Clone)]
enum Part {
    /// With the keys it was made ready with, to notice others.
    App(Arc<App>, Option<PrivacyKeys>),
    Access(Arc<AccessConfig>),
}

/// What is in force next.
pub struct Choice {
    /// By scope.
    pub in_force: InForce,
    /// All of it as one.
    pub config: Config,
    /// For `/state`: every scope that has a Revision.
    pub scopes: BTreeMap<String, ScopeState>,
}

/// What can run in one scope, best first, and what was refused.
#[derive(Default)]
struct Options {
    left: Vec<Running>,
    refused: Vec<RefusedRevision>,
}

/// Decides.
pub fn choose(
    pod: &str,
    offers: &Offers,
    secrets: &Secrets,
    before: &InForce,
    random: &mut dyn FnMut(&mut [u8]),
) -> Choice {
    let mut scopes: BTreeMap<&str, Vec<&Offer>> = BTreeMap::new();
    for offer in offers.values() {
        scopes.entry(&offer.scope).or_default().push(offer);
    }
    let mut options: BTreeMap<&str, Options> = BTreeMap::new();
    for (scope, mut offers) in scopes {
        offers.sort_by_key(|offer| std::cmp::Reverse(offer.sequence));
        options.insert(scope, Options::of(pod, &offers, secrets, before.get(scope), random));
    }
    loop {
        match fit(&options, secrets, before) {
            Ok(config) => return Choice::new(config, options),
            Err(Unfit { scope, reason }) => {
                let options = options.get_mut(scope.as_str()).expect("it was one of these that did not fit");
                let unfit = options.left.remove(0);
                options.refused.push(RefusedRevision { sequence: unfit.sequence, reason });
            }
        }
    }
}

impl Options {
    /// `offers` are sorted, the highest first.
    fn of(
        pod: &str,
        offers: &[&Offer],
        secrets: &Secrets,
        before: Option<&Running>,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Self {
        let mut options = Self::default();
        for offer in offers.iter().filter(|offer| takes(pod, &offer.name, offer.percent)) {
            let runs = before.filter(|before| before.is(offer));
            match ready(offer, secrets, before, random) {
                Ok(ready) => options.left.push(ready),
                Err(reason) => {
                    options.refused.push(RefusedRevision { sequence: offer.sequence, reason });
                    // Its keys are gone; those it runs with are still good.
                    options.left.extend(runs.cloned());
                }
            }
            if runs.is_some() {
                return options;
            }
        }
        options.left.extend(before.cloned());
        options
    }
}

impl Running {
    fn is(&self, offer: &Offer) -> bool {
        self.sequence == offer.sequence && self.hash == offer.hash
    }
}

/// A Revision made ready to run. What did not change stays the same value, which tells everyone that it did not.
fn ready(
    offer: &Offer,
    secrets: &Secrets,
    before: Option<&Running>,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Running, String> {
    let before = before.filter(|before| before.hash == offer.hash).map(|before| &before.part);
    let part = match offer.body.as_ref().map_err(|error| telemetry::chain(error))? {
        Body::Access(access) => match before {
            Some(part @ Part::Access(_)) => part.clone(),
            Some(Part::App(..)) | None => Part::Access(Arc::clone(access)),
        },
        Body::App(config) => {
            let given = secrets.given(&config.app).map_err(|error| telemetry::chain(&error))?;
            match before {
                Some(part @ Part::App(_, keys)) if keys.as_ref() == given => part.clone(),
                Some(Part::App(..) | Part::Access(_)) | None => {
                    let privacy_keys = usable(given, random).map_err(|error| telemetry::chain(&error))?;
                    let app = App { config: AppConfig::clone(config), privacy_keys };
                    Part::App(Arc::new(app), given.cloned())
                }
            }
        }
    };
    Ok(Running { sequence: offer.sequence, hash: offer.hash.clone(), part })
}

/// Puts the best of every scope together, or says which scope's does not fit. Those that run already come first: they
/// fit each other, so it is always a change that gives way.
fn fit(options: &BTreeMap<&str, Options>, secrets: &Secrets, before: &InForce) -> Result<Config, Unfit> {
    let best = || options.iter().filter_map(|(scope, options)| Some((*scope, options.left.first()?)));
    let runs = |scope: &str, best: &Running| before.get(scope).is_some_and(|before| before.hash == best.hash);
    let mut config = Config::under(secrets.pepper());
    let first = best().filter(|(scope, best)| runs(scope, best));
    let then = best().filter(|(scope, best)| !runs(scope, best));
    for (scope, best) in first.chain(then) {
        match &best.part {
            Part::Access(access) => config.add_access(Arc::clone(access)),
            Part::App(app, _) => {
                config.add_app(Arc::clone(app)).map_err(|error| Unfit::new(scope, &error))?;
            }
        }
    }
    Ok(config)
}

/// A scope whose best does not fit the others.
struct Unfit {
    scope: String,
    reason: String,
}

impl Unfit {
    fn new(scope: &str, error: &ConfigError) -> Self {
        Self { scope: scope.to_owned(), reason: telemetry::chain(error) }
    }
}

impl Choice {
    fn new(config: Config, options: BTreeMap<&str, Options>) -> Self {
        let mut choice = Self { in_force: InForce::new(), config, scopes: BTreeMap::new() };
        for (scope, options) in options {
            let running = options.left.into_iter().next();
            let state = ScopeState {
                refused: refused_above(running.as_ref(), options.refused),
                running: running.as_ref().map(|running| RunningRevision {
                    sequence: running.sequence,
                    hash: running.hash.clone(),
                }),
            };
            choice.scopes.insert(scope.to_owned(), state);
            choice.in_force.extend(running.map(|running| (scope.to_owned(), running)));
        }
        choice
    }
}

/// The highest refused one, unless something higher runs.
fn refused_above(running: Option<&Running>, refused: Vec<RefusedRevision>) -> Option<RefusedRevision> {
    let highest = refused.into_iter().max_by_key(|refused| refused.sequence);
    highest.filter(|refused| running.is_none_or(|running| refused.sequence > running.sequence))
}

#[cfg(test)]
mod tests;
