//! What a request gets in place of a result, in the shape that its client's library reads.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use ropeway::service::ServiceError;
use ropeway::{Error, RequestError};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use crate::names::shortened;
use crate::routes::SchemaOf;

/// Characters of the longest message. Names in it are cut already; twenty of them fit.
const MESSAGE: usize = 4000;

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

impl Family {
    /// The schema of its errors.
    pub fn schema(self) -> SchemaOf {
        match self {
            Family::OpenAi => SchemaGenerator::subschema_for::<OpenAiError>,
            Family::Cohere => SchemaGenerator::subschema_for::<CohereError>,
            Family::Tei => SchemaGenerator::subschema_for::<TeiError>,
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
    Malformed,
    Empty,
    Invalid,
    TooMany,
    TooLarge,
    Encoding,
    Unauthorized,
    UnknownModel,
    NotFound,
    Method,
    Slow,
    Unsupported,
    Overloaded,
    Late,
    Unavailable,
    Internal,
}

/// What interfaces make of a kind.
struct Row {
    about: &'static str,
    /// OpenAI's status, type and code.
    openai: (u16, &'static str, Option<&'static str>),
    cohere: u16,
    /// TEI's status and type.
    tei: (u16, &'static str),
}

impl Kind {
    pub const ALL: [Kind; 16] = [
        Kind::Malformed,
        Kind::Empty,
        Kind::Invalid,
        Kind::TooMany,
        Kind::TooLarge,
        Kind::Encoding,
        Kind::Unauthorized,
        Kind::UnknownModel,
        Kind::NotFound,
        Kind::Method,
        Kind::Slow,
        Kind::Unsupported,
        Kind::Overloaded,
        Kind::Late,
        Kind::Unavailable,
        Kind::Internal,
    ];

    fn row(self) -> Row {
        const INVALID: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        let row = |about, openai, cohere, tei| Row {
            about,
            openai,
            cohere,
            tei,
        };
        let of = |about, status, code| row(about, (status, INVALID, code), status, (status, "Validation"));
        match self {
            Kind::Malformed => of("The body or the path is not what the route takes", 400, None),
            Kind::Empty => row(
                "No input, or an empty one",
                (400, INVALID, None),
                400,
                (400, "Empty"),
            ),
            Kind::Invalid => {
                let about = "Options or inputs that this model cannot serve";
                row(about, (400, INVALID, None), 400, (422, "Validation"))
            }
            Kind::TooMany => {
                let about = "More inputs than one request may have";
                row(about, (400, INVALID, None), 400, (422, "Validation"))
            }
            Kind::TooLarge => {
                let about = "More bytes than one request may have";
                of(about, 413, Some("request_too_large"))
            }
            Kind::Encoding => of("The body has a content encoding other than gzip", 415, None),
            Kind::Unauthorized => of("The key is missing or wrong", 401, Some("invalid_api_key")),
            Kind::UnknownModel => of("There is no such model", 404, Some("model_not_found")),
            Kind::NotFound => of("There is no such route or adapter", 404, None),
            Kind::Method => of("The route takes another method", 405, None),
            Kind::Slow => of("The body did not arrive in time", 408, None),
            Kind::Unsupported => {
                let about = "This kind of model does not do that";
                row(about, (404, INVALID, None), 404, (424, "Backend"))
            }
            Kind::Overloaded => {
                let about = "The queue, or the room for bodies, is full; Retry-After says when to come back";
                let openai = (429, "rate_limit_error", Some("overloaded"));
                row(about, openai, 429, (429, "Overloaded"))
            }
            Kind::Late => {
                let about = "The deadline that the request came with cannot be met";
                row(about, (504, SERVER, Some("deadline")), 504, (504, "Overloaded"))
            }
            Kind::Unavailable => {
                let about = "The device is lost, or the server ends";
                row(about, (503, SERVER, None), 503, (503, "Unhealthy"))
            }
            Kind::Internal => row("The server failed", (500, SERVER, None), 500, (424, "Backend")),
        }
    }

    /// What it means, for people.
    pub fn about(self) -> &'static str {
        self.row().about
    }

    /// Its status in this interface.
    pub fn status(self, family: Family) -> u16 {
        let row = self.row();
        match family {
            Family::OpenAi => row.openai.0,
            Family::Cohere => row.cohere,
            Family::Tei => row.tei.0,
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

#[derive(Serialize, JsonSchema)]
struct OpenAiError {
    error: OpenAiProblem,
    /// The message again, where Jina's clients look.
    detail: String,
}

#[derive(Serialize, JsonSchema)]
struct OpenAiProblem {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

#[derive(Serialize, JsonSchema)]
struct CohereError {
    message: String,
}

#[derive(Serialize, JsonSchema)]
struct TeiError {
    error: String,
    error_type: &'static str,
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

    fn body(&self, family: Family) -> serde_json::Result<Vec<u8>> {
        let row = self.kind.row();
        let message = shortened(&self.message, MESSAGE);
        match family {
            Family::OpenAi => serde_json::to_vec(&OpenAiError {
                error: OpenAiProblem {
                    message: message.clone(),
                    kind: row.openai.1,
                    param: None,
                    code: row.openai.2,
                },
                detail: message,
            }),
            Family::Cohere => serde_json::to_vec(&CohereError { message }),
            Family::Tei => serde_json::to_vec(&TeiError {
                error: message,
                error_type: row.tei.1,
            }),
        }
    }

    /// The response of a route of this interface.
    pub fn response(&self, family: Family) -> Response<Body> {
        let body = self.body(family).expect("text can be written to memory");
        let status = self.kind.status(family);
        let mut response = Response::new(Body::from(body));
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
        // Paths of the server are nobody's business: what failed while a device was opened anew may name some.
        let message = match kind {
            Kind::Unavailable if matches!(&error, ServiceError::Engine(Error::DeviceLost(_))) => {
                "the model's device is lost; the server's log says why".to_owned()
            }
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

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        ServiceError::Engine(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn each_interface_has_its_own_shape() {
        let failure = Failure::new(Kind::Invalid, "why").of_input(3, 5);
        let body_of = |path| {
            let family = Family::of(path);
            let body: Value = serde_json::from_slice(&failure.body(family).unwrap()).unwrap();
            (failure.kind.status(family), body)
        };
        let error =
            json!({"message": "input 3: why", "type": "invalid_request_error", "param": null, "code": null});
        assert_eq!(
            body_of("/v1/embeddings"),
            (400, json!({"error": error, "detail": "input 3: why"}))
        );
        assert_eq!(body_of("/v2/embed"), (400, json!({"message": "input 3: why"})));
        assert_eq!(
            body_of("/embed"),
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
    fn what_is_wrong_with_the_server_tells_no_path() {
        for (error, kind) in [
            (Error::Internal("of /srv/models".into()), Kind::Internal),
            (Error::DeviceLost("of /srv/models".into()), Kind::Unavailable),
        ] {
            let failure = Failure::from(error);
            assert!(failure.kind == kind && !failure.message.contains("/srv"));
        }
    }
}
