//! What a request gets in place of a result, in the shape that its client's library reads.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use ropeway::service::ServiceError;
use ropeway::{Error, RequestError};
use serde_json::{Value, json};

/// The interface that a route belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    OpenAi,
    Cohere,
    Tei,
}

impl Family {
    /// The interface of a path.
    pub fn of(path: &str) -> Family {
        match path {
            "/v1/embed" | "/v2/embed" => Family::Cohere,
            _ if path.starts_with("/v1/") || path == "/embeddings" => Family::OpenAi,
            _ => Family::Tei,
        }
    }
}

/// Why there is no result.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

/// Kinds of failures, as far as interfaces tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The body is not what the route takes.
    Malformed,
    /// No input, or an empty one.
    Empty,
    /// Options or inputs that this model cannot serve.
    Invalid,
    /// More inputs than one request may have.
    TooMany,
    /// More bytes than one request may have.
    TooLarge,
    Unauthorized,
    UnknownModel,
    NotFound,
    /// The sender takes too long.
    Slow,
    /// This kind of model does not do that.
    Unsupported,
    Overloaded,
    /// The deadline that the request came with cannot be met.
    Late,
    /// The device is lost, or the server ends.
    Unavailable,
    Internal,
}

/// Of each kind: OpenAI's status, type and code; Cohere's status; TEI's status and type.
type Row = (u16, &'static str, Option<&'static str>, u16, u16, &'static str);

impl Kind {
    fn row(self) -> Row {
        const INVALID: &str = "invalid_request_error";
        match self {
            Kind::Malformed => (400, INVALID, None, 400, 400, "Validation"),
            Kind::Empty => (400, INVALID, None, 400, 400, "Empty"),
            Kind::Invalid => (400, INVALID, None, 400, 422, "Validation"),
            Kind::TooMany => (400, INVALID, None, 400, 422, "Validation"),
            Kind::TooLarge => (413, INVALID, Some("request_too_large"), 413, 413, "Validation"),
            Kind::Unauthorized => (401, INVALID, Some("invalid_api_key"), 401, 401, "Validation"),
            Kind::UnknownModel => (404, INVALID, Some("model_not_found"), 404, 404, "Validation"),
            Kind::NotFound => (404, INVALID, None, 404, 404, "Validation"),
            Kind::Slow => (408, INVALID, None, 408, 408, "Validation"),
            Kind::Unsupported => (404, INVALID, None, 404, 424, "Backend"),
            Kind::Overloaded => (
                429,
                "rate_limit_error",
                Some("overloaded"),
                429,
                429,
                "Overloaded",
            ),
            Kind::Late => (504, "server_error", Some("deadline"), 504, 504, "Overloaded"),
            Kind::Unavailable => (503, "server_error", None, 503, 503, "Unhealthy"),
            Kind::Internal => (500, "server_error", None, 500, 424, "Backend"),
        }
    }

    /// The word of TEI's metric `te_request_failure`.
    pub fn te_word(self) -> &'static str {
        match self {
            Kind::Overloaded | Kind::Late => "overloaded",
            Kind::TooMany => "batch_size",
            Kind::Unsupported => "model_type",
            Kind::Unavailable | Kind::Internal => "inference",
            _ => "validation",
        }
    }
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A fault of the server's own.
    pub fn internal(error: impl std::fmt::Display) -> Failure {
        Failure::new(Kind::Internal, error.to_string())
    }

    /// A field of inputs that has none.
    pub fn empty(field: &str) -> Failure {
        Failure::new(Kind::Empty, format!("`{field}` cannot be empty"))
    }

    /// A field of more inputs than a request may have.
    pub fn too_many(field: &str, count: usize, most: usize) -> Failure {
        let message = format!("`{field}` has {count} inputs; wanted at most {most} in a request");
        Failure::new(Kind::TooMany, message)
    }

    /// The same, told of one of several inputs.
    pub fn of_input(mut self, index: usize, count: usize) -> Failure {
        if count > 1 && matches!(self.kind, Kind::Invalid | Kind::Empty) {
            self.message = format!("input {index}: {}", self.message);
        }
        self
    }

    fn body(&self, family: Family) -> (u16, Value) {
        let (openai, openai_type, code, cohere, tei, tei_type) = self.kind.row();
        let message = &self.message;
        match family {
            // `detail` is where Jina's clients look.
            Family::OpenAi => (
                openai,
                json!({
                    "error": {"message": message, "type": openai_type, "param": null, "code": code},
                    "detail": message,
                }),
            ),
            Family::Cohere => (cohere, json!({"message": message})),
            Family::Tei => (tei, json!({"error": message, "error_type": tei_type})),
        }
    }

    /// The response of a route of this interface.
    pub fn response(&self, family: Family) -> Response<Body> {
        let (status, body) = self.body(family);
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status of the table");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            // Whole seconds is what the header has; clients of OpenAI read milliseconds as well.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
            headers.insert("retry-after-ms", HeaderValue::from(milliseconds));
        }
        response.extensions_mut().insert(self.kind);
        response
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Failure {
        let kind = match &error {
            ServiceError::Overloaded { .. } => Kind::Overloaded,
            ServiceError::Unreachable { .. } | ServiceError::Expired => Kind::Late,
            ServiceError::Stopped => Kind::Unavailable,
            ServiceError::Engine(Error::Request(RequestError::NoIds)) => Kind::Empty,
            ServiceError::Engine(Error::Request(RequestError::NotFinite)) => Kind::Internal,
            ServiceError::Engine(Error::Request(_) | Error::Adapter { .. }) => Kind::Invalid,
            ServiceError::Engine(Error::Gpu { .. } | Error::DeviceLost(_)) => Kind::Unavailable,
            _ => Kind::Internal,
        };
        let retry_after = match &error {
            ServiceError::Overloaded { retry_after } => Some(*retry_after),
            _ => None,
        };
        // Paths of the server are nobody's business.
        let message = match kind {
            Kind::Internal if !matches!(&error, ServiceError::Engine(Error::Request(_))) => {
                "the server failed; its log says why".to_owned()
            }
            _ => error.to_string(),
        };
        Failure {
            kind,
            message,
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_has_its_own_shape() {
        let failure = Failure::new(Kind::Invalid, "why").of_input(3, 5);
        let error =
            json!({"message": "input 3: why", "type": "invalid_request_error", "param": null, "code": null});
        assert_eq!(
            failure.body(Family::of("/v1/embeddings")),
            (400, json!({"error": error, "detail": "input 3: why"}))
        );
        assert_eq!(
            failure.body(Family::of("/v2/embed")),
            (400, json!({"message": "input 3: why"}))
        );
        assert_eq!(
            failure.body(Family::of("/embed")),
            (422, json!({"error": "input 3: why", "error_type": "Validation"}))
        );
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_back() {
        let retry_after = Duration::from_millis(1200);
        let failure = Failure::from(ServiceError::Overloaded { retry_after });
        let response = failure.response(Family::OpenAi);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["retry-after-ms"], "1200");
    }

    #[test]
    fn an_internal_error_tells_no_path() {
        let error = Error::Internal("of /srv/models".into());
        let failure = Failure::from(ServiceError::from(error));
        assert!(failure.kind == Kind::Internal && !failure.message.contains("/srv"));
    }
}
