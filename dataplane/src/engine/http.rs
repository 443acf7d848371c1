//! ClickHouse's HTTP protocol in, work for the pool out, and the answer back.
//! One request is one statement on a handle of its own. What the engine says about it decides the status.

mod asked;
mod encode;
mod multipart;
mod receive;
mod respond;

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::ffi::Stats;
use super::guard;
use super::pool::{Abandoned, Check, Held, Pool, ReservedId, Running, Work};
use super::refusal::{Refusal, code};
use super::spool::Spool;
use super::sql::{self, Insert, Rows, Statement};
use super::users::{Access, Account, Users};
use asked::Asked;
use encode::{Encoding, Wrapping};
use receive::Packing;
use respond::{Facts, HOLD_BYTES, Head};

/// Longest statement without its rows: the engine's own limit is 256 KiB, raised by `max_query_size`.
const STATEMENT_BYTES_MAX: u64 = 16 << 20;

/// What the handlers share.
pub(super) struct Server {
    pub(super) pool: Pool,
    /// None: only processes of this machine get here.
    pub(super) users: Option<Users>,
    /// Where large bodies are kept.
    pub(super) spool_dir: PathBuf,
    facts: Facts,
}

impl Server {
    /// Asks the engine who it is; an engine that does not answer is not served.
    pub(super) async fn start(pool: Pool, users: Option<Users>, spool_dir: PathBuf) -> Result<Self, String> {
        let unknown = Facts { version: String::new(), timezone: String::new(), host: String::new() };
        let mut server = Self { pool, users, spool_dir, facts: unknown };
        let answer = server
            .ask("SELECT version(), timezone(), hostName()")
            .await
            .map_err(|refusal| refusal.line(""))?;
        let mut fields = answer.trim_end().split('\t').map(str::to_owned);
        let mut field = || fields.next().unwrap_or_default();
        server.facts = Facts { version: field(), timezone: field(), host: field() };
        Ok(server)
    }

    /// Runs a statement of our own.
    async fn ask(&self, sql: &str) -> Result<String, Refusal> {
        let work = Work {
            setup: Vec::new(),
            check: None,
            readonly: Some(1),
            sql: sql.as_bytes().to_vec(),
            format: "TSV".to_owned(),
            parameters: Vec::new(),
            file: None,
        };
        let done = self.pool.start_now(work).outcome().await?;
        Ok(String::from_utf8_lossy(&done.bytes).into_owned())
    }
}

/// The routes of a ClickHouse server that clients and probes use.
pub(super) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", any(statement))
        .route("/ping", get(|| async { "Ok.\n" }))
        .route("/replicas_status", get(health))
        .fallback(unknown)
        .with_state(server)
}

/// Unlike `/ping`, asks the engine itself: a probe sees a hung engine.
async fn health(State(server): State<Arc<Server>>) -> Response {
    match server.ask("SELECT 1").await {
        Ok(_) => "Ok.\n".into_response(),
        Err(refusal) => {
            (StatusCode::SERVICE_UNAVAILABLE, refusal.line(&server.facts.version)).into_response()
        }
    }
}

async fn unknown(uri: Uri) -> Response {
    let text = format!("There is no handle {}\n\nUse / or /ping for health checks.\n", uri.path());
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn statement(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !matches!(parts.method, Method::GET | Method::POST) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let asked = match Asked::read(&parts) {
        Ok(asked) => asked,
        Err(refusal) => {
            return Head::new(server.facts.clone(), String::new(), Wrapping::default()).refused(&refusal);
        }
    };
    if parts.method == Method::GET && asked.query.is_empty() && parts.uri.query().is_none() {
        return "Ok.\n".into_response();
    }
    let query_id = asked.query_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let head = Head::new(server.facts.clone(), query_id, wrapping(&asked, &parts.headers));
    let account = match authenticate(&server, &asked, &parts.headers) {
        Ok(account) => account,
        Err(refusal) => return head.plain().refused(&refusal),
    };
    Exchange { server: &server, asked, account, head }.run(&parts.headers, body).await
}

fn wrapping(asked: &Asked, headers: &HeaderMap) -> Wrapping {
    let accept = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let encoding = accept.filter(|_| asked.may_encode).and_then(Encoding::accepted);
    Wrapping { frames: asked.response_frames, encoding }
}

fn authenticate(server: &Server, asked: &Asked, headers: &HeaderMap) -> Result<Account, Refusal> {
    match &server.users {
        Some(users) => users.authenticate(&asked.credentials),
        None => check_local(headers).map(|()| Account::Local),
    }
}

/// Without a users file everyone on this machine is trusted, but not the web pages in their browsers: no page,
/// and no host name that a page's owner pointed at this machine.
fn check_local(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let from_page = headers.contains_key(header::ORIGIN)
        || text("sec-fetch-site").is_some_and(|site| !matches!(site, "none" | "same-origin"));
    let host = text("host").unwrap_or("localhost");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let local = name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if local && !from_page {
        return Ok(());
    }
    Err(Refusal::new(
        code::AUTHENTICATION_FAILED,
        "without a users file only programs of this machine may ask; give the engine one with --users",
    ))
}

/// One request with what is known of it.
struct Exchange<'a> {
    server: &'a Server,
    asked: Asked,
    account: Account,
    head: Head,
}

impl Exchange<'_> {
    async fn run(mut self, headers: &HeaderMap, body: Body) -> Response {
        let answer = match self.prepare(headers, body).await {
            Ok((prepared, id)) => self.answer(prepared, id).await,
            Err(refusal) => Err(refusal),
        };
        answer.unwrap_or_else(|refusal| self.head.refused(&refusal))
    }

    /// Takes the body, reads the statement, and makes work of it.
    async fn prepare(&mut self, headers: &HeaderMap, body: Body) -> Result<(Prepared, ReservedId), Refusal> {
        let place = self.server.pool.queue()?;
        let id = self.server.pool.reserve_id(&self.head.query_id)?;
        let body = self.take_body(headers, body).await?;
        drop(place);
        let (statement, rows) = self.read_statement(body)?;
        let prepared = match statement {
            Statement::Rows(rows) => self.rows_work(&rows)?,
            Statement::Insert(insert) => Prepared::Change(self.insert_work(&insert, rows)?),
            Statement::Other { sql } => {
                let check = self.check(sql.clone())?;
                Prepared::Change(self.work(sql, None, check))
            }
        };
        Ok((prepared, id))
    }

    async fn take_body(&mut self, headers: &HeaderMap, body: Body) -> Result<Spool, Refusal> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let packing = Packing::of(text(header::CONTENT_ENCODING))?;
        let dir = self.server.spool_dir.clone();
        let spool = receive::receive(body, &dir).await?;
        let (frames, unpack_dir) = (self.asked.body_frames, dir.clone());
        let spool = spawn_blocking(move || receive::unpack(spool, packing, frames, &unpack_dir))
            .await
            .map_err(|_| Refusal::new(code::UNKNOWN_EXCEPTION, "unpacking the body failed"))??;
        let Some(boundary) = text(header::CONTENT_TYPE).and_then(multipart::boundary) else {
            return Ok(spool);
        };
        for (name, value) in multipart::fields(&whole(&spool)?, boundary)? {
            self.asked.take(name, value)?;
        }
        Spool::new(&dir).map_err(|error| cannot_read(&error))
    }

    /// The statement, from `query` and body together, and the rows that follow it.
    fn read_statement(&self, body: Spool) -> Result<(Statement, Spool), Refusal> {
        let query = self.asked.query.as_bytes();
        if !query.is_empty() {
            let text = [query, b"\n"].concat();
            if let Ok(Statement::Insert(insert)) = sql::read(&text) {
                let rest = text[insert.data_at.min(query.len())..query.len()].to_vec();
                let rows = self.rows_of(&rest, body, 0)?;
                return Ok((Statement::Insert(insert), rows));
            }
        }
        let head = body.head(STATEMENT_BYTES_MAX + 1).map_err(|error| cannot_read(&error))?;
        let separator: &[u8] = if query.is_empty() || head.is_empty() { b"" } else { b"\n" };
        let text = [query, separator, &head].concat();
        let statement = sql::read(&text)?;
        match statement {
            Statement::Insert(insert) => {
                let rows = self.rows_of(&[], body, insert.data_at as u64)?;
                Ok((Statement::Insert(insert), rows))
            }
            other if text.len() as u64 <= STATEMENT_BYTES_MAX => Ok((other, body)),
            _ => Err(Refusal::new(
                code::QUERY_IS_TOO_LARGE,
                format!("the query is over {STATEMENT_BYTES_MAX} bytes"),
            )),
        }
    }

    /// Rows as one spool: what stood in `query` after the statement, then the body from `offset` on.
    fn rows_of(&self, rest: &[u8], body: Spool, offset: u64) -> Result<Spool, Refusal> {
        if rest.iter().all(u8::is_ascii_whitespace) && offset == 0 {
            return Ok(body);
        }
        let copy = || -> io::Result<Spool> {
            let mut rows = Spool::new(&self.server.spool_dir)?;
            rows.write_all(rest)?;
            io::copy(&mut body.reader(offset)?, &mut rows)?;
            Ok(rows)
        };
        copy().map_err(|error| cannot_read(&error))
    }

    fn rows_work(&mut self, rows: &Rows) -> Result<Prepared, Refusal> {
        self.choose_format(rows.format.as_deref(), "TabSeparated");
        let check = self.check(rows.sql())?;
        let (reader, writer) = io::pipe().map_err(|error| cannot_read(&error))?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(|error| cannot_read(&error))?;
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let work = self.work(rows.writing_to(&path), Some(Box::new(writer)), check);
        Ok(Prepared::Rows(work, reader))
    }

    fn insert_work(&mut self, insert: &Insert, rows: Spool) -> Result<Work, Refusal> {
        if insert.format.is_none() && self.asked.default_format.is_none() {
            return Err(Refusal::syntax(
                "the INSERT has neither FORMAT nor VALUES, and no default_format is given",
            ));
        }
        self.choose_format(insert.format.as_deref(), "Values");
        let format = self.head.format.clone();
        let check = self.check(insert.sql(&format))?;
        let sql = insert.reading_from(&rows.path(), &format);
        Ok(self.work(sql, Some(Box::new(rows)), check))
    }

    fn choose_format(&mut self, named: Option<&str>, otherwise: &str) {
        let default = self.asked.default_format.as_deref();
        named.or(default).unwrap_or(otherwise).clone_into(&mut self.head.format);
    }

    fn work(&self, sql: Vec<u8>, file: Held, check: Option<Check>) -> Work {
        let user_level = match &self.account {
            Account::User(user) if user.access == Access::ReadOnly => Some(2),
            Account::User(_) | Account::Local => None,
        };
        Work {
            setup: self.asked.setup(),
            check,
            readonly: self.asked.readonly.or(user_level),
            sql,
            format: self.asked.default_format.clone().unwrap_or_else(|| "TabSeparated".to_owned()),
            parameters: self.asked.parameters.clone(),
            file,
        }
    }

    /// What must be checked before the statement runs; refuses at once what needs no tree.
    fn check(&self, sql: Vec<u8>) -> Result<Option<Check>, Refusal> {
        let user = match &self.account {
            Account::User(user) if !user.is_unrestricted() => user,
            Account::User(_) | Account::Local => return Ok(None),
        };
        self.asked.settings.iter().try_for_each(|(name, _)| guard::check_setting(name))?;
        guard::check_text(&sql, &self.asked.parameters)?;
        let database = self.asked.database.clone().unwrap_or_else(|| "default".to_owned());
        if self.asked.database.is_some() && !user.may_use(&database) {
            return Err(Refusal::denied(format!(
                "{}: not enough privileges on database {database}",
                user.name
            )));
        }
        Ok(Some(Check { user: Arc::clone(user), database, sql }))
    }

    async fn answer(&self, prepared: Prepared, id: ReservedId) -> Result<Response, Refusal> {
        let head = self.head.clone();
        match prepared {
            Prepared::Change(work) => {
                let mut running = self.server.pool.start(work, id, Abandoned::Finish).await?;
                let done = running.outcome().await?;
                Ok(head.whole(&done.bytes, done.stats))
            }
            Prepared::Rows(work, rows) => {
                let mut running = self.server.pool.start(work, id, Abandoned::Stop).await?;
                match self.hold(rows, &mut running).await? {
                    Kept::All(rows, stats) => Ok(head.whole(&rows, stats)),
                    Kept::Spooled(spool, stats) => {
                        head.spooled(spool, stats).map_err(|error| cannot_read(&error))
                    }
                    Kept::First(rows, rest) => Ok(head.streamed(rows, rest, running)),
                }
            }
        }
    }

    /// Collects rows until they are all there, or too many to hold back.
    async fn hold(&self, mut rows: pipe::Receiver, running: &mut Running) -> Result<Kept, Refusal> {
        let mut held = Vec::new();
        let read = (&mut rows).take(HOLD_BYTES as u64).read_to_end(&mut held).await;
        if read.map_err(|error| cannot_read(&error))? < HOLD_BYTES {
            let done = running.outcome().await?;
            return Ok(Kept::All(held, done.stats));
        }
        if self.asked.wait_end_of_query {
            return self.spool_rows(held, rows, running).await;
        }
        Ok(Kept::First(held, rows))
    }

    /// `wait_end_of_query=1`: all rows are kept before the status is told.
    async fn spool_rows(
        &self,
        mut piece: Vec<u8>,
        mut rows: pipe::Receiver,
        running: &mut Running,
    ) -> Result<Kept, Refusal> {
        let mut spool = Spool::new(&self.server.spool_dir).map_err(|error| cannot_read(&error))?;
        loop {
            spool.write_all(&piece).map_err(|error| cannot_read(&error))?;
            piece.resize(HOLD_BYTES, 0);
            let read = rows.read(&mut piece).await.map_err(|error| cannot_read(&error))?;
            if read == 0 {
                let done = running.outcome().await?;
                return Ok(Kept::Spooled(spool, done.stats));
            }
            piece.truncate(read);
        }
    }
}

/// Work ready to start.
enum Prepared {
    /// Its rows come through the pipe.
    Rows(Work, pipe::Receiver),
    Change(Work),
}

/// Rows kept back until the status is known.
enum Kept {
    All(Vec<u8>, Stats),
    Spooled(Spool, Stats),
    /// Too many: the first of them, and where the rest comes from.
    First(Vec<u8>, pipe::Receiver),
}

fn whole(spool: &Spool) -> Result<Vec<u8>, Refusal> {
    if spool.len() > STATEMENT_BYTES_MAX {
        return Err(Refusal::new(
            code::QUERY_IS_TOO_LARGE,
            format!("the form is over {STATEMENT_BYTES_MAX} bytes"),
        ));
    }
    spool.head(STATEMENT_BYTES_MAX).map_err(|error| cannot_read(&error))
}

fn cannot_read(error: &io::Error) -> Refusal {
    Refusal::new(code::CANNOT_READ_ALL_DATA, format!("the engine cannot handle the request's data ({error})"))
}
