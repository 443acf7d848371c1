//! What goes and what stays when an App is deleted.

use anyhow::{Result, ensure};

use crate::harness::{Story, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_one_app_leaves_the_others_pods_alone() -> Result<()> {
    let story = Story::begin("two").await?;
    for app in ["one", "two"] {
        story
            .apply(&format!(
                "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {{name: {app}}}\nspec: {{}}\n"
            ))
            .await?;
    }
    for app in ["one", "two"] {
        story.ready(app).await?;
    }
    let before = story.pods().await?;
    story.delete("App", "one").await?;
    wait("its Revisions to go", async || {
        let revisions = story.list("Revision").await?;
        Ok((!revisions.iter().any(|r| r["metadata"]["labels"]["millrace.dev/scope"] == "one")).then_some(()))
    })
    .await?;
    story.ready("two").await?;
    ensure!(story.pods().await? == before, "the pods of the other App changed");
    // Its keys belong to its data, which stays: an App of the same name takes both up again.
    let key = story.secret("millrace-one", "write-key").await?;
    story.apply("apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: one}\nspec: {}\n").await?;
    story.ready("one").await?;
    ensure!(story.secret("millrace-one", "write-key").await? == key, "the key was replaced");
    story.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_delete_removes_topics_tables_and_keys() -> Result<()> {
    let story = Story::begin("gone").await?;
    let app = "apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {deletionPolicy: Delete}\n";
    story.apply(app).await?;
    story.ready("shop").await?;
    let key = story.secret("millrace-shop", "write-key").await?;
    story.delete("App", "shop").await?;
    wait("the App to go", async || Ok(story.api("App")?.get_opt("shop").await?.is_none().then_some(())))
        .await?;
    ensure!(story.api("Secret")?.get_opt("millrace-shop").await?.is_none(), "the keys are still there");
    // A new one of that name begins with nothing.
    story.apply(app).await?;
    story.ready("shop").await?;
    ensure!(story.secret("millrace-shop", "write-key").await? != key, "the old key came back");
    story.counts("shop", 0).await?;
    story.end().await
}
