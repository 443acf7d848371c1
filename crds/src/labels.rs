//! Labels and annotations on what the operator makes, and the names of those objects. Pods and tools find things by
//! them; the only place where they stand.

use crate::names::AppId;
use crate::resolved::Role;

/// Who made an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "millrace-operator";
/// Product of an object; value [`PRODUCT`].
pub const NAME: &str = "app.kubernetes.io/name";
/// Value of [`NAME`].
pub const PRODUCT: &str = "millrace";
/// What an object does: `ingest`, `worker`, `gateway`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The data plane an object belongs to: `shared`, or the App's name where it has its own. On the Revision of an App:
/// the data plane that runs it.
pub const DATA_PLANE: &str = "millrace.dev/data-plane";
/// On a Revision of an App that moves to another data plane: the one that is to let go of it first. Meanwhile it carries
/// no [`DATA_PLANE`], and no pod runs it.
pub const MOVING_FROM_ANNOTATION: &str = "millrace.dev/moving-from";
/// Beside [`MOVING_FROM_ANNOTATION`]: RFC 3339 moment at which it was taken from there.
pub const MOVING_SINCE_ANNOTATION: &str = "millrace.dev/moving-since";
/// On a Revision: what it configures, an App's name or [`SCOPE_ACCESS`]. On other objects of one App: its name.
pub const SCOPE: &str = "millrace.dev/scope";
/// Scope of all RolePolicies of a namespace.
pub const SCOPE_ACCESS: &str = "access";
/// The data plane of all Apps of a namespace that have none of their own.
pub const SHARED: &str = "shared";
/// ServiceAccount that all Apps of the shared data plane own and that owns everything else in it. No role's object is
/// named so, and no App's: those end in a role.
pub const SHARED_ANCHOR: &str = "mr-shared";
/// On everything applied: hash of the intent, so that a field that is no longer wanted is noticed.
pub const INTENT_ANNOTATION: &str = "millrace.dev/intent";
/// On an App or RolePolicy, any value: nothing is written for it until it is gone.
pub const PAUSED_ANNOTATION: &str = "millrace.dev/paused";
/// On an App: a value that was not there before makes a new write key; the old one works until the time in
/// [`ROTATE_UNTIL_ANNOTATION`] of the App's Secret.
pub const ROTATE_ANNOTATION: &str = "millrace.dev/rotate-write-key";
/// On the App's Secret: RFC 3339 moment until which the previous write key is taken.
pub const ROTATE_UNTIL_ANNOTATION: &str = "millrace.dev/previous-key-until";
/// On an App under deletion: any value skips the step that does not finish, and what it would have removed stays.
pub const SKIP_CLEANUP_ANNOTATION: &str = "millrace.dev/skip-cleanup";
/// Finalizer of Apps with `deletionPolicy: Delete`.
pub const FINALIZER: &str = "millrace.dev/cleanup";

/// Secret with an App's generated write key and privacy keys.
pub fn app_secret(app: &AppId) -> String {
    format!("millrace-{}", app.name())
}

/// Key of the generated write key in [`app_secret`].
pub const WRITE_KEY: &str = "write-key";
/// Key of the write key before the last rotation in [`app_secret`].
pub const WRITE_KEY_PREVIOUS: &str = "write-key-previous";
/// Key of the privacy keys in [`app_secret`]: JSON as [`crate::resolved::PrivacyKeys`].
pub const PRIVACY_KEYS: &str = "privacy-keys";

/// Secret of a namespace with the pepper under which write keys are hashed (key [`PEPPER`]).
pub const PEPPER_SECRET: &str = "millrace.pepper";
/// Key of the pepper: 32 bytes, in lower-case hex.
pub const PEPPER: &str = "pepper";
/// Secret of a namespace with the bootstrap admin token (key [`ADMIN_TOKEN`]), the same for every gateway pod.
pub const ADMIN_SECRET: &str = "millrace.admin";
/// Key of the admin token.
pub const ADMIN_TOKEN: &str = "token";
/// Key of what the operator presents to read `/state`, in [`ADMIN_SECRET`].
pub const STATE_TOKEN: &str = "state-token";

/// Name of the objects of one role of one data plane: Deployment or StatefulSet, Service, ServiceAccount, Role and so
/// on. The prefix is short because a StatefulSet's name may have 52 characters: its pods carry it with a hash of ten
/// in a label, and labels end at 63.
pub fn role_object(data_plane: &str, role: Role) -> String {
    format!("mr-{data_plane}-{role}")
}

/// Secret with what one role of one data plane needs (key [`RESOLVED`]). The dot keeps it apart from [`app_secret`]:
/// no App name has one.
pub fn resolved_secret(data_plane: &str, role: Role) -> String {
    format!("millrace.{data_plane}.{role}")
}

/// Key of the JSON of [`crate::resolved::Resolved`].
pub const RESOLVED: &str = "resolved.json";

/// Name of a Revision.
pub fn revision(scope: &str, sequence: i64) -> String {
    format!("{scope}-{sequence}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::APP_NAME_CHARS_MAX;

    #[test]
    fn the_longest_app_name_still_fits_a_stateful_set() {
        let app = "a".repeat(APP_NAME_CHARS_MAX);
        assert!(Role::ALL.into_iter().all(|role| role_object(&app, role).len() <= 52));
    }
}
