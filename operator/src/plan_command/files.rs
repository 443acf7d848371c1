//! Files that a person would apply: read, checked, and laid over a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Resource;
use kube::core::ObjectMeta;
use millrace_crds::manifest::{self, Manifest, Parsed, Secret, Source};
use millrace_crds::names::NAMESPACE_DEFAULT;
use millrace_crds::problem::{ObjectRef, Problem};
use millrace_crds::validate;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cluster::overlay::Overlay;
use crate::cluster::{Cluster as _, ClusterError, ObjectKey};
use crate::kind::Kind;

/// Most files read from one folder: far more than one installation has, and few enough to be read at once.
const FILES_MAX: usize = 10_000;

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file or folder could not be read.
    #[error("cannot read `{path}`", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in them.
    #[error("no App, Integration, RolePolicy or Secret in `{path}`; name a file or a folder with `*.yaml`", path = path.display())]
    Empty {
        /// The first of them.
        path: PathBuf,
    },
    /// Too many.
    #[error("`{path}` holds more than {FILES_MAX} files; name fewer", path = path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

/// What people would apply, with the namespace they would apply it to.
pub struct Files {
    parsed: Parsed,
    namespace: String,
}

impl Files {
    /// Reads files and folders (their `*.yaml`, `*.yml` and `*.json`, not below); `-` is standard input. What names no
    /// namespace goes to the one given.
    pub fn read(paths: &[PathBuf], namespace: &str) -> Result<Self, FilesError> {
        let mut sources = Vec::new();
        for path in paths {
            sources.extend(read_path(path)?);
        }
        let parsed = manifest::parse(&sources);
        let count =
            parsed.apps.len() + parsed.integrations.len() + parsed.role_policies.len() + parsed.secrets.len();
        if count == 0 && parsed.problems.is_empty() {
            return Err(FilesError::Empty { path: paths.first().cloned().unwrap_or_default() });
        }
        Ok(Self { parsed, namespace: namespace.to_owned() })
    }

    /// Everything that the files alone show to be wrong, with file and line.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.parsed.problems.clone();
        problems.extend(located(&self.parsed.apps, validate::app));
        problems.extend(located(&self.parsed.integrations, validate::integration));
        problems.extend(located(&self.parsed.role_policies, validate::role_policy));
        problems
    }

    /// What was left aside on purpose.
    pub fn notes(&self) -> Vec<String> {
        self.parsed.notes.iter().map(|note| format!("{}: {}", note.place, note.message)).collect()
    }

    /// Lays everything over a cluster, as `kubectl apply` would, and gives the objects. Missing namespaces are problems.
    pub async fn lay(&self, cluster: &Overlay) -> Result<(BTreeSet<ObjectKey>, Vec<Problem>), ClusterError> {
        let mut keys = BTreeSet::new();
        for secret in &self.parsed.secrets {
            let key = ObjectKey::new(Kind::Secret, self.of_secret(secret), &secret.name);
            cluster.lay(&key, &secret_value(secret)).await?;
            keys.insert(key);
        }
        for app in &self.parsed.apps {
            keys.insert(self.lay_one(cluster, Kind::App, &app.object, |app| &app.spec).await?);
        }
        for integration in &self.parsed.integrations {
            let object = &integration.object;
            keys.insert(self.lay_one(cluster, Kind::Integration, object, |object| &object.spec).await?);
        }
        for policy in &self.parsed.role_policies {
            keys.insert(
                self.lay_one(cluster, Kind::RolePolicy, &policy.object, |policy| &policy.spec).await?,
            );
        }
        let mut problems = Vec::new();
        let namespaces: BTreeSet<&str> = keys.iter().map(|key| key.namespace.as_str()).collect();
        for namespace in namespaces {
            if cluster.get(&ObjectKey::new(Kind::Namespace, "", namespace)).await?.is_none() {
                problems.push(Problem {
                    source: None,
                    object: Some(ObjectRef::new("Namespace", "", namespace)),
                    path: String::new(),
                    message: "does not exist".to_owned(),
                    fix: format!("`kubectl create namespace {namespace}`"),
                });
            }
        }
        Ok((keys, problems))
    }

    /// Removes everything from a cluster, as `kubectl delete` would, and gives the objects; with those that are not there.
    pub async fn remove(
        &self,
        cluster: &Overlay,
    ) -> Result<(BTreeSet<ObjectKey>, Vec<ObjectKey>), ClusterError> {
        let parsed = &self.parsed;
        let key = |kind, metadata: &ObjectMeta| {
            let namespace = metadata.namespace.as_deref().unwrap_or(&self.namespace);
            ObjectKey::new(kind, namespace, metadata.name.as_deref().unwrap_or_default())
        };
        let secrets = parsed
            .secrets
            .iter()
            .map(|secret| ObjectKey::new(Kind::Secret, self.of_secret(secret), &secret.name));
        let keys: BTreeSet<ObjectKey> = secrets
            .chain(parsed.apps.iter().map(|app| key(Kind::App, &app.object.metadata)))
            .chain(parsed.integrations.iter().map(|one| key(Kind::Integration, &one.object.metadata)))
            .chain(parsed.role_policies.iter().map(|one| key(Kind::RolePolicy, &one.object.metadata)))
            .collect();
        let mut missing = Vec::new();
        for key in &keys {
            if !cluster.lay_deletion(key).await? {
                missing.push(key.clone());
            }
        }
        Ok((keys, missing))
    }

    async fn lay_one<T, S>(
        &self,
        cluster: &Overlay,
        kind: Kind,
        object: &T,
        spec: fn(&T) -> &S,
    ) -> Result<ObjectKey, ClusterError>
    where
        T: Resource<DynamicType = ()>,
        S: Serialize + DeserializeOwned + PartialEq,
    {
        let metadata = object.meta();
        let namespace = metadata.namespace.as_deref().unwrap_or(&self.namespace);
        let key = ObjectKey::new(kind, namespace, metadata.name.as_deref().unwrap_or_default());
        let live = cluster.get(&key).await?;
        let live_spec = live.as_ref().and_then(|live| live.data.get("spec"));
        // The API server fills in defaults: specs are the same where they mean the same.
        let means_the_same = |live: &&Value| {
            serde_json::from_value::<S>((*live).clone()).is_ok_and(|live| live == *spec(object))
        };
        let mut laid = json!({"metadata": applied_metadata(metadata)});
        laid["spec"] = match live_spec.filter(means_the_same) {
            Some(live) => live.clone(),
            None => {
                serde_json::to_value(spec(object)).expect("a resource that was read from YAML is valid JSON")
            }
        };
        cluster.lay(&key, &laid).await?;
        Ok(key)
    }

    /// A Secret that names no namespace looks as if it named `default`.
    fn of_secret<'a>(&'a self, secret: &'a Secret) -> &'a str {
        if secret.namespace == NAMESPACE_DEFAULT { &self.namespace } else { &secret.namespace }
    }
}

fn applied_metadata(metadata: &ObjectMeta) -> Value {
    json!({"labels": metadata.labels, "annotations": metadata.annotations})
}

fn secret_value(secret: &Secret) -> Value {
    let encoded =
        secret.data.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value.expose()).into()));
    json!({
        "metadata": {"labels": secret.labels},
        "type": "Opaque",
        "data": encoded.collect::<Map<String, Value>>(),
    })
}

fn located<T>(manifests: &[Manifest<T>], check: fn(&T) -> Vec<Problem>) -> Vec<Problem> {
    let of_one = |manifest: &Manifest<T>| {
        let problems = check(&manifest.object).into_iter();
        problems
            .map(|problem| Problem { source: Some(manifest.locate(&problem.path)), ..problem })
            .collect::<Vec<_>>()
    };
    manifests.iter().flat_map(of_one).collect()
}

fn read_path(path: &Path) -> Result<Vec<Source>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    if path == Path::new("-") {
        let mut text = String::new();
        // One byte more than is taken: too much is reported as such by the reader.
        let most = manifest::SOURCE_BYTES_MAX as u64 + 1;
        io::stdin().lock().take(most).read_to_string(&mut text).map_err(failed)?;
        return Ok(vec![Source { name: "standard input".to_owned(), text }]);
    }
    if !path.is_dir() {
        return Ok(vec![read_file(path)?]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let is_ours =
            entry.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|is| end == *is));
        if is_ours && entry.is_file() {
            paths.push(entry);
        }
    }
    if paths.len() > FILES_MAX {
        return Err(FilesError::TooMany { path: path.to_owned() });
    }
    paths.sort();
    paths.iter().map(|path| read_file(path)).collect()
}

fn read_file(path: &Path) -> Result<Source, FilesError> {
    let text =
        fs::read_to_string(path).map_err(|source| FilesError::Read { path: path.to_owned(), source })?;
    Ok(Source { name: path.display().to_string(), text })
}
