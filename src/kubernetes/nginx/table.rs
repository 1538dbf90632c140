//! What becomes of each annotation of ingress-nginx: the table that is also `docs/ingress-nginx.md`.

use super::PREFIX;

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It does the same.
    Done,
    /// It does the same but for what its text says.
    Partly,
    /// There is nothing to do: what it sets does not exist here, or is always so.
    Needless,
    /// It cannot be had. The Ingress is served without it, and told so.
    Missing,
    /// It cannot be had and guards the Ingress, which is not served without it.
    Guard,
}

impl Treatment {
    /// The words for it in documents and reports.
    pub fn words(self) -> &'static str {
        match self {
            Self::Done => "yes",
            Self::Partly => "in part",
            Self::Needless => "not needed",
            Self::Missing => "no",
            Self::Guard => "no, not served",
        }
    }
}

/// An annotation of ingress-nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Its name without the prefix.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// As what, how it differs, or what to do instead.
    pub text: &'static str,
}

impl Annotation {
    /// Whether a value turns it off, so that nothing is missing without it.
    pub fn is_off(&self, value: &str) -> bool {
        matches!(value.trim(), "" | "false" | "off" | "0" | "none")
    }
}

/// The annotation of a name without the prefix.
pub fn annotation(name: &str) -> Option<&'static Annotation> {
    let found = ANNOTATIONS.binary_search_by(|known| known.name.cmp(name));
    found.ok().and_then(|at| ANNOTATIONS.get(at))
}

/// What is said of a name that nobody knows.
pub fn unknown(name: &str) -> String {
    let distance = |known: &&Annotation| strsim::damerau_levenshtein(known.name, name);
    let near = ANNOTATIONS
        .iter()
        .min_by_key(distance)
        .filter(|known| distance(known) <= 3);
    match near {
        Some(near) => format!(
            "AnnotationNotSupported: ingress-nginx has no such annotation; did you mean {PREFIX}{}?",
            near.name
        ),
        None => "AnnotationNotSupported: ingress-nginx has no such annotation".to_owned(),
    }
}

macro_rules! annotations {
    ($($name:literal $treatment:ident $text:literal)*) => {
        &[$(Annotation { name: $name, treatment: Treatment::$treatment, text: $text },)*]
    };
}

/// All of them, by name.
pub const ANNOTATIONS: &[Annotation] = annotations! {
    "affinity" Done "`cookie`: a cookie says which endpoint a client goes to"
    "affinity-canary-behavior" Missing "a client's cookie belongs to one Service, so canary and main have one each"
    "affinity-mode" Partly "always `persistent`: a client stays with its endpoint as long as that is there and well"
    "allowlist-source-range" Guard "clients cannot be told apart by address here yet; do it at the load balancer or by a NetworkPolicy"
    "app-root" Done "`/` is redirected there with 302"
    "auth-always-set-cookie" Missing "there is no external authentication here yet"
    "auth-cache-duration" Missing "there is no external authentication here yet"
    "auth-cache-key" Missing "there is no external authentication here yet"
    "auth-keepalive" Missing "there is no external authentication here yet"
    "auth-keepalive-requests" Missing "there is no external authentication here yet"
    "auth-keepalive-share-vars" Missing "there is no external authentication here yet"
    "auth-keepalive-timeout" Missing "there is no external authentication here yet"
    "auth-method" Missing "there is no external authentication here yet"
    "auth-proxy-set-headers" Missing "there is no external authentication here yet"
    "auth-realm" Missing "there is no authentication by password here yet"
    "auth-request-redirect" Missing "there is no external authentication here yet"
    "auth-response-headers" Missing "there is no external authentication here yet"
    "auth-secret" Guard "there is no authentication by password here yet; do it in the application"
    "auth-secret-type" Missing "there is no authentication by password here yet"
    "auth-signin" Guard "there is no external authentication here yet; put an authenticating proxy before the Service"
    "auth-signin-redirect-param" Missing "there is no external authentication here yet"
    "auth-snippet" Guard "snippets of nginx's configuration mean nothing here"
    "auth-tls-error-page" Missing "client certificates of an Ingress are not asked for here yet"
    "auth-tls-match-cn" Guard "client certificates of an Ingress are not asked for here yet; a listener of a configuration file has client_auth"
    "auth-tls-pass-certificate-to-upstream" Missing "client certificates of an Ingress are not asked for here yet"
    "auth-tls-secret" Guard "client certificates of an Ingress are not asked for here yet; a listener of a configuration file has client_auth"
    "auth-tls-verify-client" Guard "client certificates of an Ingress are not asked for here yet; a listener of a configuration file has client_auth"
    "auth-tls-verify-depth" Missing "client certificates of an Ingress are not asked for here yet"
    "auth-type" Guard "there is no authentication by password here yet; do it in the application"
    "auth-url" Guard "there is no external authentication here yet; put an authenticating proxy before the Service"
    "backend-protocol" Partly "`HTTP` and `GRPC`; with `HTTPS`, `GRPCS`, `FCGI`, `AUTO_HTTP` the Ingress is not served"
    "canary" Done "the rules of the Ingress with the same host and path are divided"
    "canary-by-cookie" Done "`always` and `never`"
    "canary-by-header" Done "`always` and `never`, or what the next two say"
    "canary-by-header-pattern" Done "a regular expression in linear time, without look-around"
    "canary-by-header-value" Done "this value leads to the canary"
    "canary-weight" Done "a part of what neither field nor cookie decides"
    "canary-weight-total" Done "100 if not given"
    "client-body-buffer-size" Needless "bodies are streamed, never collected"
    "configuration-snippet" Guard "snippets of nginx's configuration mean nothing here; fields are set by an HTTPRoute's filters"
    "connection-proxy-header" Missing "how connections are kept is decided here"
    "cors-allow-credentials" Partly "`true` if not given; none where all origins are allowed, as browsers have it"
    "cors-allow-headers" Done "ingress-nginx's list if not given"
    "cors-allow-methods" Done "`GET, PUT, POST, DELETE, PATCH, OPTIONS` if not given"
    "cors-allow-origin" Partly "`*` if not given; `http` and `https`; a wildcard is one label"
    "cors-expose-headers" Done "none if not given"
    "cors-max-age" Done "1728000 if not given"
    "custom-headers" Missing "an HTTPRoute's filters edit fields of responses"
    "custom-http-errors" Missing "responses of endpoints are passed on as they are"
    "default-backend" Missing "a Service without endpoints is answered with 503; spec.defaultBackend is for what no rule matches"
    "denylist-source-range" Guard "clients cannot be told apart by address here yet; do it at the load balancer or by a NetworkPolicy"
    "disable-proxy-intercept-errors" Needless "responses of endpoints are passed on as they are"
    "enable-access-log" Missing "the access log is a setting of the process"
    "enable-cors" Partly "preflights are answered here, other OPTIONS requests go to the Service; what the Service says of it is replaced"
    "enable-modsecurity" Guard "there is no web application firewall here"
    "enable-opentelemetry" Missing "there are no traces here yet"
    "enable-owasp-core-rules" Guard "there is no web application firewall here"
    "enable-rewrite-log" Missing "rewrites are not logged"
    "force-ssl-redirect" Partly "for hosts of spec.tls; without TLS here a redirection would lead nowhere, and the Ingress is not served"
    "from-to-www-redirect" Missing "an Ingress of its own with `permanent-redirect: https://www.example.com$request_uri` does it"
    "http2-push-preload" Missing "browsers have given up pushes"
    "limit-allowlist" Missing "there are no limits of rates here yet"
    "limit-burst-multiplier" Missing "there are no limits of rates here yet"
    "limit-connections" Missing "there are no limits per client here yet; tidegate.dev/max-in-flight on the Service bounds each endpoint"
    "limit-rate" Missing "there are no limits of rates here yet"
    "limit-rate-after" Missing "there are no limits of rates here yet"
    "limit-rpm" Missing "there are no limits of rates here yet; tidegate.dev/max-in-flight on the Service bounds each endpoint"
    "limit-rps" Missing "there are no limits of rates here yet; tidegate.dev/max-in-flight on the Service bounds each endpoint"
    "limit-whitelist" Missing "there are no limits of rates here yet"
    "load-balance" Done "`round_robin`; `ewma` is least-latency, which is what is used without the annotation too"
    "mirror-host" Missing "an HTTPRoute's RequestMirror copies requests to a Service"
    "mirror-request-body" Missing "an HTTPRoute's RequestMirror copies requests to a Service"
    "mirror-target" Missing "an HTTPRoute's RequestMirror copies requests to a Service"
    "modsecurity-snippet" Guard "there is no web application firewall here"
    "modsecurity-transaction-id" Missing "there is no web application firewall here"
    "opentelemetry-operation-name" Missing "there are no traces here yet"
    "opentelemetry-trust-incoming-span" Missing "there are no traces here yet"
    "permanent-redirect" Partly "`$request_uri` at the end keeps the path; the query is always kept; a URL with a query is refused"
    "permanent-redirect-code" Partly "301 and 308"
    "preserve-trailing-slash" Needless "a trailing slash is never taken off"
    "proxy-body-size" Missing "bodies are streamed and have no bound of size here; bound them in the application"
    "proxy-buffer-size" Needless "bodies are streamed, heads of responses may have 64 KiB"
    "proxy-buffering" Needless "bodies are streamed, never collected"
    "proxy-buffers-number" Needless "bodies are streamed, never collected"
    "proxy-busy-buffers-size" Needless "bodies are streamed, never collected"
    "proxy-connect-timeout" Done "the time for a connection, of the Service's port"
    "proxy-cookie-domain" Missing "cookies are passed on as they are"
    "proxy-cookie-path" Missing "cookies are passed on as they are"
    "proxy-http-version" Missing "HTTP/1.1, or HTTP/2 by backend-protocol"
    "proxy-max-temp-file-size" Needless "nothing is written to a disk"
    "proxy-next-upstream" Partly "`error`, `timeout`, `http_…`, `off`; never for what is not idempotent; always another endpoint"
    "proxy-next-upstream-timeout" Missing "retries have a budget and the deadlines of the request"
    "proxy-next-upstream-tries" Done "tries with the first; 0 is 10"
    "proxy-read-timeout" Done "the silence that is borne of an endpoint, before and within its response, and of a WebSocket"
    "proxy-redirect-from" Missing "Location is passed on as it is"
    "proxy-redirect-to" Missing "Location is passed on as it is"
    "proxy-request-buffering" Needless "bodies are streamed; up to 64 KiB are kept for another try"
    "proxy-send-timeout" Partly "of a WebSocket; else the listener's bound on silence of clients holds"
    "proxy-ssl-ciphers" Guard "TLS to endpoints is not set by an Ingress here"
    "proxy-ssl-name" Guard "TLS to endpoints is not set by an Ingress here"
    "proxy-ssl-protocols" Guard "TLS to endpoints is not set by an Ingress here"
    "proxy-ssl-secret" Guard "TLS to endpoints is not set by an Ingress here"
    "proxy-ssl-server-name" Guard "TLS to endpoints is not set by an Ingress here"
    "proxy-ssl-verify" Guard "TLS to endpoints is not set by an Ingress here"
    "proxy-ssl-verify-depth" Guard "TLS to endpoints is not set by an Ingress here"
    "relative-redirects" Missing "redirections name the host"
    "rewrite-target" Partly "with `$1` to `$9`; paths are regular expressions then; the query stays"
    "satisfy" Guard "clients cannot be told apart here yet"
    "server-alias" Missing "a rule of its own for the other host does it"
    "server-snippet" Guard "snippets of nginx's configuration mean nothing here"
    "service-upstream" Missing "endpoints are chosen here, not by kube-proxy; a rollout fails no request"
    "session-cookie-change-on-failure" Needless "a client whose endpoint is gone or ejected is always sent to another, and told by a new cookie"
    "session-cookie-conditional-samesite-none" Missing "SameSite is as session-cookie-samesite says"
    "session-cookie-domain" Missing "the cookie belongs to the host that set it"
    "session-cookie-expires" Done "the same as session-cookie-max-age"
    "session-cookie-max-age" Done "seconds"
    "session-cookie-name" Done "`INGRESSCOOKIE` if not given"
    "session-cookie-path" Done "`/` if not given"
    "session-cookie-samesite" Done "`Lax` if not given"
    "session-cookie-secure" Done "`true` or `false`"
    "ssl-ciphers" Missing "the library's ciphers are used, which are all good"
    "ssl-passthrough" Guard "TLS is not passed on unopened by an Ingress"
    "ssl-prefer-server-ciphers" Needless "the server's order is used"
    "ssl-redirect" Done "308 where the host is in spec.tls; `false` serves it in clear text too"
    "stream-snippet" Guard "snippets of nginx's configuration mean nothing here"
    "temporal-redirect" Partly "`$request_uri` at the end keeps the path; the query is always kept; a URL with a query is refused"
    "temporal-redirect-code" Partly "302, 303 and 307"
    "upstream-hash-by" Partly "`$remote_addr`, `$uri`, `$request_uri` (without the query), `$http_NAME`, `$cookie_NAME`; a ring"
    "upstream-hash-by-subset" Missing "the whole ring is used"
    "upstream-hash-by-subset-size" Missing "the whole ring is used"
    "upstream-vhost" Done "the host that endpoints see; without variables"
    "use-regex" Partly "for the paths of this Ingress, not of all that share its host; in upper or lower case, from the path's beginning"
    "whitelist-source-range" Guard "clients cannot be told apart by address here yet; do it at the load balancer or by a NetworkPolicy"
    "x-forwarded-prefix" Done "the field's value"
};
