//! The page, the metrics and their like, over HTTP: read only, local unless a token says otherwise, bounded in connections, time and
//! memory. It runs beside the engine's loop, and asks it by a bounded channel.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use apus_quic::{Shaken, Trust};
use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::Say;
use super::control::Serving;
use super::places::{Place, Places};
use super::view::Slow;
use crate::view::{MEDIA, metrics};
use crate::{Error, Http, Tls};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// Pages that are kept up to date at once.
const LIVE: usize = 16;
/// Questions to the engine's loop at once.
const ASKS: usize = 32;
/// Who has shaken no hands and asked nothing that is answered within so long, or takes no answer, is closed: a byte now and then does
/// not keep a place.
const QUIET: Duration = Duration::from_secs(10);
/// A question that the loop does not answer for so long fails.
const ANSWER: Duration = Duration::from_secs(5);
/// A page is brought up to date this often.
const LOOK: Duration = Duration::from_secs(1);
/// Entries that a page begins with.
const FIRST: usize = 1_500;

const PAGE: &str = include_str!("../view/page/index.html");
const SCRIPT: &str = include_str!("../view/page/app.js");
const STYLE: &str = include_str!("../view/page/app.css");

/// What the loop is asked.
enum Ask {
    Cluster,
    Why(String),
    Events { since: u64, most: usize },
    After(BTreeMap<u16, u64>),
}

type Question = (Ask, oneshot::Sender<Result<Value, String>>);

/// What every request sees.
struct App {
    asks: mpsc::Sender<Question>,
    token: Option<String>,
    /// It is spoken to by TLS.
    secure: bool,
    live: Arc<Semaphore>,
}

/// The listener's tasks; they end with the value.
pub(super) struct Web {
    tasks: [JoinHandle<()>; 3],
}

impl Drop for Web {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The port, and what is shown there.
pub(super) struct Open {
    listener: TcpListener,
    tls: Option<apus_quic::Web>,
}

/// Takes the port; reads the certificate.
pub(super) async fn listen(http: &Http, trust: Option<&Arc<Trust>>) -> Result<Open, Error> {
    let wrong = |what: String| Error::Usage(format!("`[http]`: {what}"));
    let read =
        |path: &std::path::Path| std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())));
    let tls = match (&http.tls, trust) {
        (None, _) => None,
        (Some(Tls::Cluster), None) => {
            return Err(wrong(
                "`tls`: nodes speak in the clear here, without certificates: write `cert` and `key`".into(),
            ));
        }
        (Some(Tls::Cluster), Some(trust)) => Some(apus_quic::Web::of_cluster(trust).map_err(wrong)?),
        (Some(Tls::Files { cert, key }), _) => {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(key).map_or(0, |is| is.permissions().mode());
            if mode & 0o007 != 0 {
                return Err(wrong(format!("{}: others may read this key: chmod o= it", key.display())));
            }
            Some(apus_quic::Web::of_pem(&read(cert)?, &read(key)?).map_err(wrong)?)
        }
    };
    let place = http.listen;
    let listener = TcpListener::bind(place).await.map_err(|error| {
        Error::Usage(format!("`listen` of `[http]`: {place}: {error}; give it another address or port"))
    })?;
    Ok(Open { listener, tls })
}

impl Web {
    pub(super) fn start(http: &Http, open: Open, serving: Serving, say: &Say) -> Self {
        let Open { listener, tls } = open;
        let at = listener.local_addr().map_or_else(|_| http.listen.to_string(), |at| at.to_string());
        let scheme = if tls.is_some() { "https" } else { "http" };
        say(&format!("the page is at {scheme}://{at}/{}", if http.token.is_some() { "?token=…" } else { "" }));
        let (asks, questions) = mpsc::channel(ASKS);
        let app = App { asks, token: http.token.clone(), secure: tls.is_some(), live: Arc::new(Semaphore::new(LIVE)) };
        let (places, slow) = (Places::new(CONNECTIONS), serving.view.slow.clone());
        let watch = tokio::spawn(watch(places.clone(), slow.clone(), say.clone()));
        let listener = Bounded { inner: listener, tls, places, slow };
        let answers = tokio::task::spawn_local(answer(questions, serving));
        let served = tokio::spawn(serve(listener, app));
        Self { tasks: [answers, served, watch] }
    }
}

async fn serve(listener: Bounded, app: App) {
    let _ = axum::serve(listener, routes(app).into_make_service_with_connect_info::<Admitted>()).await;
}

/// Tells of those who were too slow, at most once in ten seconds.
async fn watch(places: Places, slow: Arc<Slow>, say: Say) {
    let mut told = 0;
    loop {
        sleep(Duration::from_secs(1)).await;
        slow.gave_way.store(places.evicted(), Ordering::Relaxed);
        let all = slow.gave_way.load(Ordering::Relaxed) + slow.quiet.load(Ordering::Relaxed);
        if all > told {
            say(&format!("the page: {} connections that asked too slowly were closed ({all} so far)", all - told));
            told = all;
            sleep(Duration::from_secs(9)).await;
        }
    }
}

/// Answers questions where the engine can be seen.
async fn answer(mut questions: mpsc::Receiver<Question>, serving: Serving) {
    let at_once = Arc::new(Semaphore::new(ASKS));
    while let Some((ask, to)) = questions.recv().await {
        let Ok(permit) = at_once.clone().acquire_owned().await else { return };
        let serving = serving.clone();
        tokio::task::spawn_local(async move {
            let answer = match ask {
                Ask::Cluster => Ok(serving.cluster().await),
                Ask::Why(of) => serving.why(&of).await,
                Ask::Events { since, most } => Ok(serving.events(since, most).await),
                Ask::After(upto) => {
                    let (events, upto) = serving.events_after(&upto).await;
                    Ok(json!({ "events": events, "upto": upto }))
                }
            };
            let _ = to.send(answer);
            drop(permit);
        });
    }
}

fn routes(app: App) -> Router {
    let app = Arc::new(app);
    Router::new()
        .route("/", get(|| async { text("text/html; charset=utf-8", PAGE) }))
        .route("/app.js", get(|| async { text("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/first.js", get(first))
        .route("/app.css", get(|| async { text("text/css; charset=utf-8", STYLE) }))
        .route("/api/status", get(status))
        .route("/api/events", get(events))
        .route("/api/why", get(why))
        .route("/live", get(live))
        .route("/metrics", get(scrape))
        .route("/health", get(health))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page; / is one\n") })
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

fn text(media: &'static str, body: impl Into<axum::body::Body>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media))], body.into()).into_response()
}

fn document(value: &Value) -> Response {
    text("application/json", value.to_string())
}

/// Lets in whom it may concern, and has no page of another place use or frame these.
async fn guard(
    State(app): State<Arc<App>>,
    ConnectInfo(admitted): ConnectInfo<Admitted>,
    request: Request,
    next: Next,
) -> Response {
    let refusal = match &app.token {
        None => {
            let local = is_local(request.headers());
            (!local).then(|| {
                (StatusCode::FORBIDDEN, "ask for a loopback address or localhost by its name\n").into_response()
            })
        }
        Some(token) => admit(token, app.secure, &request),
    };
    let mut response = match refusal {
        Some(refusal) => refusal,
        None => {
            admitted.0.store(true, Ordering::Relaxed);
            next.run(request).await
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a request names this machine: a page of another place that has its name point here does not.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `None` for who knows the token. A browser brings it once, and has it as a cookie from then on.
fn admit(token: &str, secure: bool, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let word = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let bearer = word(header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or_default();
    let mut cookies = word(header::COOKIE).split(';').filter_map(|cookie| cookie.trim().strip_prefix("apus="));
    if same(bearer, token) || cookies.any(|cookie| same(cookie, token)) {
        return None;
    }
    if query(request.uri(), "token").is_some_and(|given| same(&given, token)) {
        let only = if secure { "; Secure" } else { "" };
        let cookie = format!("apus={token}; HttpOnly; SameSite=Strict; Path=/{only}");
        let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".to_owned())];
        return Some((StatusCode::SEE_OTHER, headers).into_response());
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let mend = "give the token of `[http]`: /?token=… in a browser, `Authorization: Bearer …` elsewhere\n";
    Some((StatusCode::UNAUTHORIZED, challenge, mend).into_response())
}

/// Compared in the same time wherever they differ.
fn same(given: &str, token: &str) -> bool {
    given.len() == token.len() && given.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// A word of a question, with `%20` and its like undone.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    let mut out = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(16 * high + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

/// Why there is no answer.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

impl App {
    async fn ask(&self, ask: Ask) -> Result<Value, Refused> {
        let busy = |what: &str| Refused(StatusCode::SERVICE_UNAVAILABLE, what.into());
        let (to, answer) = oneshot::channel();
        self.asks.try_send((ask, to)).map_err(|_| busy("too many ask at once: try again"))?;
        match timeout(ANSWER, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(what))) => Err(Refused(StatusCode::NOT_FOUND, what)),
            Ok(Err(_)) | Err(_) => Err(busy("the node does not answer")),
        }
    }
}

async fn status(State(app): State<Arc<App>>) -> Result<Response, Refused> {
    app.ask(Ask::Cluster).await.map(|status| document(&status))
}

/// What a page begins with, so that it is whole once it is loaded.
async fn first(State(app): State<Arc<App>>) -> Result<Response, Refused> {
    let (status, events) = (app.ask(Ask::Cluster).await?, app.ask(Ask::Events { since: 0, most: FIRST }).await?);
    let first = json!({ "status": status, "events": events["events"] });
    Ok(text("text/javascript; charset=utf-8", format!("const FIRST = {first};\n")))
}

async fn events(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Refused> {
    let number = |name| query(&uri, name).and_then(|word| word.parse::<u64>().ok());
    let most = number("most").and_then(|most| usize::try_from(most).ok()).unwrap_or(FIRST);
    let ask = Ask::Events { since: number("since_us").unwrap_or_default(), most };
    app.ask(ask).await.map(|events| document(&events))
}

async fn why(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Refused> {
    let of = query(&uri, "of").unwrap_or_default();
    app.ask(Ask::Why(of)).await.map(|story| document(&story))
}

async fn scrape(State(app): State<Arc<App>>) -> Result<Response, Refused> {
    app.ask(Ask::Cluster).await.map(|status| text(MEDIA, metrics(&status)))
}

/// 200 while the cluster can decide, 503 while it cannot.
async fn health(State(app): State<Arc<App>>) -> Result<Response, Refused> {
    let status = app.ask(Ask::Cluster).await?;
    let code = if status["health"] == "no quorum" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({ "health": status["health"], "node": status["node"], "alarms": status["alarms"] });
    Ok((code, document(&body)).into_response())
}

/// Status and journal as they come.
async fn live(State(app): State<Arc<App>>) -> Result<Response, Refused> {
    let Ok(permit) = app.live.clone().try_acquire_owned() else {
        return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open: close one".into()));
    };
    let (to, from) = mpsc::channel(4);
    tokio::spawn(async move {
        follow(&app, &to).await;
        drop(permit);
    });
    let keep = KeepAlive::new().interval(Duration::from_secs(5));
    Ok(Sse::new(Lines(from)).keep_alive(keep).into_response())
}

async fn follow(app: &App, to: &mpsc::Sender<Event>) {
    let mut upto: Option<BTreeMap<u16, u64>> = None;
    loop {
        let ask = match &upto {
            None => Ask::Events { since: 0, most: FIRST },
            Some(upto) => Ask::After(upto.clone()),
        };
        let (status, journal) = (app.ask(Ask::Cluster).await, app.ask(ask).await);
        if let Ok(status) = status
            && to.send(Event::default().event("status").data(status.to_string())).await.is_err()
        {
            return;
        }
        if let Ok(journal) = journal {
            let known = journal["upto"].as_object().into_iter().flatten();
            let known = known.filter_map(|(node, seq)| Some((node.parse().ok()?, seq.as_u64()?)));
            let first = upto.replace(known.collect()).is_none();
            let events = &journal["events"];
            let some = first || events.as_array().is_some_and(|events| !events.is_empty());
            if some && to.send(Event::default().event("journal").data(events.to_string())).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = to.closed() => return,
            () = sleep(LOOK) => {}
        }
    }
}

/// What a page is sent.
struct Lines(mpsc::Receiver<Event>);

impl Stream for Lines {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|event| event.map(Ok))
    }
}

/// So many connections and no more.
struct Bounded {
    inner: TcpListener,
    tls: Option<apus_quic::Web>,
    places: Places,
    slow: Arc<Slow>,
}

impl Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, from)) => {
                    // Whoever is slowest gives way.
                    let place = self.places.take().await;
                    let stream = Shaken::new(stream, self.tls.as_ref());
                    let slow = self.slow.clone();
                    let (quiet, admitted) = (Box::pin(sleep(QUIET)), Admitted::default());
                    return (Guarded { stream, quiet, place, asked: true, over: false, admitted, slow }, from);
                }
                // Out of handles, as a rule: they come back.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Whether something was asked on a connection that is not refused: until then it has no right to its place.
#[derive(Clone, Default)]
struct Admitted(Arc<AtomicBool>);

impl Connected<IncomingStream<'_, Bounded>> for Admitted {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        stream.io().admitted.clone()
    }
}

/// A connection that ends when nothing is answered on it, or when its place is wanted before anything but a refusal was.
struct Guarded {
    stream: Shaken<TcpStream>,
    quiet: Pin<Box<Sleep>>,
    place: Place,
    /// Something is asked, or nothing was yet: who has been answered may be idle.
    asked: bool,
    /// It has been told to end.
    over: bool,
    admitted: Admitted,
    slow: Arc<Slow>,
}

impl Guarded {
    /// What a poll gave, or the end of a connection that is too slow.
    fn judged<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        if !self.over {
            let late = self.quiet.as_mut().poll(cx).is_ready();
            if late && self.asked {
                self.slow.quiet.fetch_add(1, Ordering::Relaxed);
            }
            let wanted = self.place.give_up.as_mut().is_some_and(|wanted| Pin::new(wanted).poll(cx).is_ready());
            self.over = late || wanted;
        }
        if self.over { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }

    /// Something was answered.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(poll, Poll::Ready(Ok(_))) && self.admitted.0.load(Ordering::Relaxed) {
            self.quiet.as_mut().reset(Instant::now() + QUIET);
            self.place.give_up = None;
            self.asked = false;
        }
        self.judged(cx, poll)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, into);
        self.asked |= into.filled().len() > before;
        self.judged(cx, poll)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.judged(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judged(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_of_this_machine_is_local() {
        let local = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header"));
            is_local(&headers)
        };
        for host in ["localhost", "localhost:7480", "127.0.0.1:7480", "127.9.9.9", "[::1]:80", "[::1]"] {
            assert!(local(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:7480", "10.0.0.1:7480", "localhost.evil.example", "", "127.0.0.1.evil"]
        {
            assert!(!local(host), "{host}");
        }
        assert!(!is_local(&HeaderMap::new()));
    }

    #[test]
    fn a_question_is_read_and_an_odd_one_is_none() {
        let of = |uri: &str| query(&uri.parse().expect("a place"), "of");
        assert_eq!(of("/api/why?x=1&of=web%2E0").as_deref(), Some("web.0"));
        assert_eq!(of("/api/why?of=the+address").as_deref(), Some("the address"));
        for odd in ["/api/why", "/api/why?of", "/api/why?of=%2", "/api/why?of=%zz", "/api/why?of=%ff"] {
            assert_eq!(of(odd), None, "{odd}");
        }
        assert!(same("abc", "abc") && !same("abc", "abd") && !same("", "abc") && !same("abcd", "abc"));
    }

    /// Asks on a connection that stays open: the answer's first line.
    async fn asks(stream: &mut TcpStream, token: &str) -> io::Result<String> {
        use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
        let question = format!("GET /app.css HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(question.as_bytes()).await?;
        let (mut all, mut from) = (String::new(), BufReader::new(stream));
        let mut length = 0;
        while from.read_line(&mut all).await? > 2 {
            let line = all.lines().last().unwrap_or_default();
            length = line.strip_prefix("content-length: ").and_then(|many| many.parse().ok()).unwrap_or(length);
        }
        from.read_exact(&mut vec![0; length]).await?;
        Ok(all.lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn those_who_are_refused_do_not_keep_the_places() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
        runtime.block_on(async {
            let inner = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let at = inner.local_addr().expect("it is bound");
            let places = Places::new(CONNECTIONS);
            let bounded = Bounded { inner, tls: None, places: places.clone(), slow: Arc::default() };
            let live = Arc::new(Semaphore::new(LIVE));
            let app = App { asks: mpsc::channel(1).0, token: Some("good".into()), secure: false, live };
            let served = tokio::spawn(serve(bounded, app));
            let mut good = TcpStream::connect(at).await.expect("it comes in");
            assert_eq!(asks(&mut good, "good").await.expect("it is answered"), "HTTP/1.1 200 OK");
            let mut all = Vec::new();
            for _ in 1..CONNECTIONS {
                let mut stream = TcpStream::connect(at).await.expect("it comes in");
                let answer = asks(&mut stream, "bad").await.expect("it is answered");
                assert_eq!(answer, "HTTP/1.1 401 Unauthorized");
                all.push(stream);
            }
            assert_eq!(places.evicted(), 0);
            let mut next = TcpStream::connect(at).await.expect("it waits to be let in");
            let answer = timeout(Duration::from_secs(5), asks(&mut next, "good")).await;
            assert_eq!(answer.expect("it is let in").expect("it is answered"), "HTTP/1.1 200 OK");
            assert!(places.evicted() >= 1);
            // Who was let in before stays.
            assert_eq!(asks(&mut good, "good").await.expect("it is answered"), "HTTP/1.1 200 OK");
            served.abort();
        });
    }
}
