//! What a user of the users file may ask: the engine's own syntax tree in, allowed or refused out. Pure.
//!
//! libchdb has no access control. So a restricted user gets a short list of statements (`SELECT`, `INSERT`,
//! `DESCRIBE`, `EXISTS`), and every table in the tree must be in a database of that user. Whatever is not
//! understood is refused.

use super::refusal::Refusal;
use super::sql;
use super::users::User;

/// Tables of `system` that say nothing about anyone's data.
const OPEN_SYSTEM_TABLES: [&str; 8] =
    ["one", "numbers", "numbers_mt", "zeros", "zeros_mt", "functions", "formats", "data_type_families"];

/// Table functions that read nothing but their arguments.
const OPEN_TABLE_FUNCTIONS: [&str; 8] =
    ["numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "values", "null"];

/// Functions that reach beyond the tables of the statement: files, dictionaries, other tables, models.
const CLOSED_FUNCTIONS: [&str; 9] = [
    "file",
    "catboostevaluate",
    "hascolumnintable",
    "joinget",
    "joingetornull",
    "addresstoline",
    "addresstolinewithinlines",
    "addresstosymbol",
    "naivebayesclassifier",
];
const CLOSED_FUNCTION_PREFIXES: [&str; 5] = ["dict", "ai", "executable", "mergetree", "filesystem"];

/// Words that must appear nowhere: formats and settings that read schema files of the server.
const CLOSED_WORD_PREFIXES: [&str; 4] = ["format_schema", "format_template", "template", "capnproto"];

/// Refuses text that could be read in two ways, or that names what no restricted user may touch. Comes before
/// the engine parses anything.
pub(super) fn check_text(text: &[u8], parameters: &[(String, String)]) -> Result<(), Refusal> {
    if !sql::is_plain(text) {
        return Err(Refusal::denied(
            "heredocs, `#` comments and unusual quotes are not allowed for this user",
        ));
    }
    let closed = sql::words(text).find(|word| {
        CLOSED_WORD_PREFIXES.iter().any(|prefix| word.starts_with(prefix)) || word.starts_with("protobuf")
    });
    if let Some(word) = closed {
        return Err(Refusal::denied(format!("`{word}` is not allowed for this user")));
    }
    let odd = |value: &str| value.chars().any(|found| found.is_control() || found == '\\');
    let identifiers = sql::words(text).any(|word| word == "identifier");
    if identifiers && parameters.iter().any(|(_, value)| odd(value)) {
        return Err(Refusal::denied(
            "parameters with control characters cannot be used beside {name:Identifier}",
        ));
    }
    Ok(())
}

/// Refuses settings that a restricted user may not choose.
pub(super) fn check_setting(name: &str) -> Result<(), Refusal> {
    let name_lower = name.to_lowercase();
    if name_lower.starts_with("format_schema")
        || name_lower.starts_with("format_template")
        || name_lower == "readonly"
    {
        return Err(Refusal::denied(format!("the setting `{name}` is not allowed for this user")));
    }
    Ok(())
}

/// Refuses a statement whose tree (`EXPLAIN AST`) reaches outside the user's databases.
pub(super) fn check_tree(tree: &str, current_database: &str, user: &User) -> Result<(), Refusal> {
    let nodes = parse(tree)?;
    let root = nodes.first().ok_or_else(|| Refusal::denied("the statement has no syntax tree"))?;
    let walk = Walk { nodes: &nodes, current_database, user };
    match root.kind {
        "SelectWithUnionQuery" | "SelectIntersectExceptQuery" | "SelectQuery" | "DescribeQuery" => {}
        "InsertQuery" => walk.check_named(0)?,
        "ExistsTableQuery" | "ExistsViewQuery" => walk.check_named(0)?,
        other => {
            return Err(Refusal::denied(format!(
                "{}: not enough privileges for {other}; this user may SELECT, INSERT, DESCRIBE and EXISTS",
                user.name
            )));
        }
    }
    (0..nodes.len()).try_for_each(|at| walk.check_node(at))
}

/// One line of the tree.
struct Node<'a> {
    depth: usize,
    kind: &'a str,
    /// What follows the kind, without alias and number of children.
    name: &'a str,
}

fn parse(tree: &str) -> Result<Vec<Node<'_>>, Refusal> {
    let mut nodes: Vec<Node<'_>> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let text = line.trim_start_matches(' ');
        let depth = line.len() - text.len();
        let deepest = nodes.last().map_or(0, |last| last.depth + 1);
        if depth > deepest || (depth == 0 && !nodes.is_empty()) {
            return Err(Refusal::denied("the syntax tree is not one that this version understands"));
        }
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        let name = rest.split(" (alias ").next().unwrap_or(rest);
        let name = name.rsplit_once(" (children ").map_or(name, |(name, _)| name);
        let name = if name.starts_with("(children ") { "" } else { name };
        nodes.push(Node { depth, kind, name });
    }
    Ok(nodes)
}

struct Walk<'a> {
    nodes: &'a [Node<'a>],
    current_database: &'a str,
    user: &'a User,
}

impl Walk<'_> {
    fn check_node(&self, at: usize) -> Result<(), Refusal> {
        let node = &self.nodes[at];
        match node.kind {
            "TableIdentifier" => self.check_table(node.name),
            "Identifier" if self.is_set_of_in(at) => self.check_table(node.name),
            "Function" if self.is_table_function(at) => self.check_table_function(node.name),
            "Function" => check_function(node.name),
            "QueryParameter" => Err(Refusal::denied("a query parameter without a value")),
            // The tree does not show their parts.
            "Explain" | "CreateQuery" | "ViewTargets" | "SYSTEM" => {
                Err(Refusal::denied(format!("{} is not allowed inside a statement", node.kind)))
            }
            _ => Ok(()),
        }
    }

    /// The table that a statement names by its first children: `Identifier [database]`, `Identifier table`.
    fn check_named(&self, root: usize) -> Result<(), Refusal> {
        let children = self.children(root);
        let names: Vec<&str> = children
            .into_iter()
            .filter(|child| self.nodes[*child].kind == "Identifier")
            .map(|child| self.nodes[child].name)
            .collect();
        match names[..] {
            [table] if !table.contains('.') => self.check_database(self.current_database),
            [database, _] => self.check_database(database),
            _ => Err(Refusal::denied("the table of the statement cannot be told")),
        }
    }

    fn check_table(&self, name: &str) -> Result<(), Refusal> {
        match name.split_once('.') {
            None => self.check_database(self.current_database),
            Some((_, rest)) if rest.contains('.') => {
                Err(Refusal::denied(format!("the name {name} has too many parts")))
            }
            Some(("system", table)) if OPEN_SYSTEM_TABLES.contains(&table) => Ok(()),
            Some((database, _)) => self.check_database(database),
        }
    }

    /// `system` and the database that shows files as tables are no one's, whatever a pattern says.
    fn check_database(&self, database: &str) -> Result<(), Refusal> {
        let closed = ["system", "default", "information_schema", "_temporary_and_external_tables"];
        let allowed = !closed.contains(&database.to_lowercase().as_str()) && self.user.may_use(database);
        if allowed {
            return Ok(());
        }
        Err(Refusal::denied(format!("{}: not enough privileges on database {database}", self.user.name)))
    }

    fn check_table_function(&self, name: &str) -> Result<(), Refusal> {
        if OPEN_TABLE_FUNCTIONS.contains(&name.to_lowercase().as_str()) {
            return Ok(());
        }
        Err(Refusal::denied(format!("{}: the table function {name} is not allowed", self.user.name)))
    }

    fn is_table_function(&self, at: usize) -> bool {
        let Some(parent) = self.parent(at) else { return false };
        let parent = &self.nodes[parent];
        parent.kind == "TableExpression" || parent.kind == "InsertQuery"
    }

    /// Whether a name is the right side of `IN`, where it means a table.
    fn is_set_of_in(&self, at: usize) -> bool {
        let Some(list) = self.parent(at) else { return false };
        let Some(function) = self.parent(list).map(|at| &self.nodes[at]) else { return false };
        let name = function.name.to_lowercase();
        let plain = name.trim_start_matches("global").trim_end_matches("ignoreset");
        let is_in = ["in", "notin", "nullin", "notnullin"].contains(&plain);
        function.kind == "Function"
            && is_in
            && self.children(list).into_iter().skip(1).any(|child| child == at)
    }

    fn parent(&self, at: usize) -> Option<usize> {
        let depth = self.nodes[at].depth;
        (0..at).rev().find(|before| self.nodes[*before].depth < depth)
    }

    fn children(&self, of: usize) -> Vec<usize> {
        let depth = self.nodes[of].depth;
        let inside = (of + 1..self.nodes.len()).take_while(|at| self.nodes[*at].depth > depth);
        inside.filter(|at| self.nodes[*at].depth == depth + 1).collect()
    }
}

fn check_function(name: &str) -> Result<(), Refusal> {
    let lower = name.to_lowercase();
    let closed = CLOSED_FUNCTIONS.contains(&lower.as_str())
        || CLOSED_FUNCTION_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if closed {
        Err(Refusal::denied(format!("the function {name} is not allowed for this user")))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
