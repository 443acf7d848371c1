//! What a person sees when standalone starts, and the file that tells tools where it listens.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use millrace_crds::names::AppId;
use serde::{Deserialize, Serialize};

use super::data_dir::write_private;
use crate::secret::Secret;

/// Where a standalone process listens: the content of `endpoints.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Base URL of ingest.
    pub ingest: String,
    /// Base URL of the API.
    pub gateway: String,
    /// Base URL of the admin listener.
    pub admin: String,
    /// Base URL of ClickHouse.
    pub clickhouse: String,
}

impl Endpoints {
    /// From the bound addresses and the URL of ClickHouse.
    pub fn new(ingest: SocketAddr, gateway: SocketAddr, admin: SocketAddr, clickhouse: String) -> Self {
        let url = |address: SocketAddr| format!("http://{address}");
        Self { ingest: url(ingest), gateway: url(gateway), admin: url(admin), clickhouse }
    }

    /// Writes `endpoints.json`, whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("endpoints are plain strings");
        text.push('\n');
        write_private(path, text.as_bytes())
    }

    /// Reads `endpoints.json`.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
    }
}

/// Everything the greeting tells.
pub struct Greeting<'a> {
    /// Where the process listens.
    pub endpoints: &'a Endpoints,
    /// The data directory.
    pub data_dir: &'a Path,
    /// The Apps served.
    pub apps: Vec<AppId>,
    /// The admin token, where it was made just now.
    pub new_admin_token: Option<&'a Secret<String>>,
    /// Write keys of Apps that name none.
    pub generated_keys: &'a [(AppId, Secret<String>)],
}

impl Greeting<'_> {
    /// The text for standard output.
    pub fn text(&self) -> String {
        let Endpoints { ingest, gateway, admin, clickhouse } = self.endpoints;
        let apps: Vec<_> = self.apps.iter().map(ToString::to_string).collect();
        let apps = if apps.is_empty() { "none yet".to_owned() } else { apps.join(", ") };
        let mut text = format!(
            "Millrace serves {apps}\n\n  \
             events      {ingest}/v1/events\n  \
             API         {gateway}  (document: {gateway}/openapi.json)\n  \
             admin       {admin}/metrics\n  \
             ClickHouse  {clickhouse}\n  \
             data        {}\n",
            self.data_dir.display()
        );
        for (app, key) in self.generated_keys {
            let _ = writeln!(text, "  write key   {}  (made for {app}; kept in keys.json)", key.expose());
        }
        match self.new_admin_token {
            Some(token) => {
                let _ = writeln!(text, "  admin token {}  (shown once; kept in admin-token)", token.expose());
            }
            None => text.push_str("  admin token as shown at first start; kept in admin-token\n"),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Endpoints::new(address(8080), address(8081), address(9090), "http://127.0.0.1:8123".to_owned())
    }

    #[test]
    fn endpoints_survive_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.json");
        endpoints().write(&path).unwrap();
        assert_eq!(Endpoints::read(&path).unwrap(), endpoints());
    }

    #[test]
    fn shows_the_token_only_when_it_is_new() {
        let token = Secret::new("mra_secret".to_owned());
        let endpoints = endpoints();
        let mut greeting = Greeting {
            endpoints: &endpoints,
            data_dir: Path::new("data"),
            apps: vec![],
            new_admin_token: Some(&token),
            generated_keys: &[],
        };
        assert!(greeting.text().contains("mra_secret"));
        greeting.new_admin_token = None;
        assert!(!greeting.text().contains("mra_secret"));
    }
}
