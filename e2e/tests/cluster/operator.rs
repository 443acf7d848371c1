//! The operator itself in a story: its pods, its commands, its chart.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams};

use crate::harness::{Story, resource, root, wait};

/// Where the charts are installed.
pub(crate) const OPERATOR_NAMESPACE: &str = "millrace-system";
/// The operator's pods.
const PODS: &str = "app.kubernetes.io/name=millrace";

impl Story {
    fn operator_api(&self) -> Result<Api<DynamicObject>> {
        Ok(Api::namespaced_with(self.client.clone(), OPERATOR_NAMESPACE, &resource("Pod")?))
    }

    /// UIDs of the operator's pods that are ready.
    pub(crate) async fn operator_pods(&self) -> Result<Vec<String>> {
        let found = self.operator_api()?.list(&ListParams::default().labels(PODS)).await?;
        let ready = found.items.into_iter().filter(|pod| {
            let conditions = pod.data["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        Ok(ready.filter_map(|pod| pod.metadata.uid).collect())
    }

    /// Waits until all of the operator's pods are others than these, and gives them.
    pub(crate) async fn operator_other_than(&self, before: &[String]) -> Result<Vec<String>> {
        wait("a new operator", async || {
            let now = self.operator_pods().await?;
            Ok((!now.is_empty() && now.iter().all(|pod| !before.contains(pod))).then_some(now))
        })
        .await
    }

    /// Deletes the operator's pods; its Deployment makes new ones.
    pub(crate) async fn restart_operator(&self) -> Result<()> {
        let chosen = ListParams::default().labels(PODS);
        self.operator_api()?.delete_collection(&DeleteParams::default(), &chosen).await?;
        Ok(())
    }

    /// Runs a command of the operator's program in its pod, on the story's namespace; gives what it printed.
    pub(crate) fn operator_command(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec![
            "-n",
            OPERATOR_NAMESPACE,
            "exec",
            "deployment/millrace-operator",
            "--",
            "/usr/bin/millrace-operator",
        ];
        all.extend(arguments);
        all.extend(["-n", &self.namespace]);
        run("kubectl", &all)
    }
}

/// Upgrades the charts with these arguments for helm, or back without any.
pub(crate) fn install_charts(arguments: &[&str]) -> Result<()> {
    run(&root().join("e2e/cluster/install-charts").to_string_lossy(), arguments).map(drop)
}

/// Runs a program; gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(program);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, folder.path());
    }
    let output = command.args(arguments).output().with_context(|| format!("start `{program}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program} {}`: {said}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
