//! As much of HTTP/1.1 (RFC 9110, RFC 9112) as a server of files needs: heads in, heads out.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::{fmt_http_date, parse_http_date};

/// A status, and what it is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(u16, &'static str);

impl Status {
    pub const OK: Status = Status(200, "OK");
    pub const PARTIAL_CONTENT: Status = Status(206, "Partial Content");
    pub const MOVED_PERMANENTLY: Status = Status(301, "Moved Permanently");
    pub const NOT_MODIFIED: Status = Status(304, "Not Modified");
    pub const BAD_REQUEST: Status = Status(400, "Bad Request");
    pub const FORBIDDEN: Status = Status(403, "Forbidden");
    pub const NOT_FOUND: Status = Status(404, "Not Found");
    pub const METHOD_NOT_ALLOWED: Status = Status(405, "Method Not Allowed");
    pub const TIMEOUT: Status = Status(408, "Request Timeout");
    pub const RANGE_NOT_SATISFIABLE: Status = Status(416, "Range Not Satisfiable");
    pub const HEAD_TOO_LONG: Status = Status(431, "Request Header Fields Too Large");
    pub const INTERNAL_ERROR: Status = Status(500, "Internal Server Error");
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

/// A request, as far as it matters here.
pub struct Request {
    /// Which file is wanted, without a slash in front; or what to answer instead.
    pub path: Result<Vec<u8>, Status>,
    /// The path as it was sent, likewise without slashes in front.
    pub target: String,
    /// The answer is to have no content.
    pub head_only: bool,
    /// Others may follow on the same connection.
    pub keep_alive: bool,
    range: Option<String>,
    if_range: Option<String>,
    if_modified_since: Option<SystemTime>,
}

/// The head of a request.
pub enum Head {
    /// And how long it is.
    Whole(Request, usize),
    Partial,
}

/// Parses the head at the beginning of `input`.
pub fn parse(input: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(input) {
        Ok(httparse::Status::Complete(len)) => {
            Head::Whole(Request::new(&head).unwrap_or_else(Request::bad), len)
        }
        Ok(httparse::Status::Partial) => Head::Partial,
        Err(httparse::Error::TooManyHeaders) => Head::Whole(Request::bad(Status::HEAD_TOO_LONG), input.len()),
        Err(_) => Head::Whole(Request::bad(Status::BAD_REQUEST), input.len()),
    }
}

impl Request {
    /// One that is only answered with a status, after which nothing can be made of what follows.
    pub fn bad(status: Status) -> Request {
        Request {
            path: Err(status),
            target: String::new(),
            head_only: false,
            keep_alive: false,
            range: None,
            if_range: None,
            if_modified_since: None,
        }
    }

    fn new(head: &httparse::Request<'_, '_>) -> Result<Request, Status> {
        let mut request = Request::bad(Status::BAD_REQUEST);
        let (mut hosts, mut closes, mut has_body) = (0, head.version != Some(1), false);
        for field in &*head.headers {
            let text = std::str::from_utf8(field.value).unwrap_or_default().trim();
            match field.name.to_ascii_lowercase().as_str() {
                "host" => hosts += 1,
                "connection" => closes |= text.split(',').any(|it| it.trim().eq_ignore_ascii_case("close")),
                "content-length" => has_body |= text != "0",
                "transfer-encoding" => has_body = true,
                "range" => request.range = Some(text.into()),
                "if-range" => request.if_range = Some(text.into()),
                "if-modified-since" => request.if_modified_since = parse_http_date(text).ok(),
                _ => {}
            }
        }
        if hosts > 1 || hosts == 0 && head.version == Some(1) {
            return Err(Status::BAD_REQUEST);
        }
        // What follows a body that nobody reads is no request.
        request.keep_alive = !closes && !has_body;
        request.head_only = head.method == Some("HEAD");
        let target = path_of(head.path.unwrap_or_default());
        request.target = target.unwrap_or_default().trim_start_matches('/').into();
        request.path = match (head.method, target) {
            (Some("GET" | "HEAD"), Some(_)) => decode(&request.target).ok_or(Status::BAD_REQUEST),
            (Some("GET" | "HEAD"), None) => Err(Status::BAD_REQUEST),
            _ => Err(Status::METHOD_NOT_ALLOWED),
        };
        Ok(request)
    }

    /// Whether the client has it already. Dates are of whole seconds.
    pub fn is_current(&self, modified: SystemTime) -> bool {
        let newest = |since| modified < since + Duration::from_secs(1);
        self.if_modified_since.is_some_and(newest)
    }

    /// Where the range begins that is wanted of `len` bytes, and how long it is. `None`: all of them, which is also right
    /// for what is no single range.
    pub fn range_of(&self, len: u64, modified: SystemTime) -> Option<Result<(u64, u64), Status>> {
        if self.head_only || self.if_range.as_ref().is_some_and(|date| *date != fmt_http_date(modified)) {
            return None;
        }
        let (first, last) = self.range.as_deref()?.strip_prefix("bytes=")?.split_once('-')?;
        let number =
            |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
        let (first, last) = match (first, last) {
            ("", "") => return None,
            ("", last) => (len.saturating_sub(number(last)?), if number(last)? == 0 { 0 } else { len }),
            (first, "") => (number(first)?, len),
            (first, last) if number(first)? > number(last)? => return None,
            (first, last) => (number(first)?, number(last)?.saturating_add(1).min(len)),
        };
        Some(if first < last { Ok((first, last - first)) } else { Err(Status::RANGE_NOT_SATISFIABLE) })
    }
}

/// The path of a request's target, without its query: `/a?b`, or as a proxy is asked, `http://host/a?b`.
fn path_of(target: &str) -> Option<&str> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let end = path.find('?').unwrap_or(path.len());
    path.starts_with('/').then_some(&path[..end])
}

/// Undoes `%41`. Nothing if that is not well-formed, or hides a NUL, which is in no path.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    (!path.contains(&0)).then_some(path)
}

/// The head of an answer, as far as it is written.
pub struct Answer(String);

impl Answer {
    pub fn new(keep_alive: bool) -> Answer {
        let mut answer = Answer(String::with_capacity(256));
        answer.date("Date", SystemTime::now());
        if !keep_alive {
            answer.field("Connection", format_args!("close"));
        }
        answer
    }

    pub fn field(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let _ = write!(self.0, "{name}: {value}\r\n"); // Into a string: it cannot fail.
    }

    pub fn date(&mut self, name: &str, time: SystemTime) {
        // Years that an HTTP date does not have are left out.
        let seconds = time.duration_since(UNIX_EPOCH).map(|since| since.as_secs());
        if seconds.is_ok_and(|seconds| seconds < 253_402_300_800) {
            self.field(name, format_args!("{}", fmt_http_date(time)));
        }
    }

    pub fn finish(self, status: Status) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\n{}\r\n", self.0).into_bytes()
    }
}

pub fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}
