//! Memory that a part did not get, as an answer to the client.
//!
//! # Safety
//! A block that was had for a question only is given back at once, with the layout that it was asked for.

use crate::Purpose;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use spanheap::Exhausted;
use std::alloc::Layout;

/// A request that its part has no memory for. Nothing has changed, and other requests go on.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    /// The heap's reason, with the purpose, what was wanted, and the limit.
    Exhausted(Exhausted),
    /// There was no memory a moment ago, and now there is.
    Passing,
}

impl Refused {
    /// Why a purpose has no memory of this layout. The errors of collections do not say, so the purpose is asked.
    pub fn of(purpose: &Purpose, layout: Layout) -> Refused {
        match purpose.allocate(layout) {
            Err(exhausted) => Refused::Exhausted(exhausted),
            Ok(block) => {
                // SAFETY: just allocated with this layout, and nobody has it.
                unsafe { purpose.heap().deallocate(block, layout) };
                Refused::Passing
            }
        }
    }
}

/// Makes room for `more` further elements, or says why there is none.
///
/// # Errors
/// [`Refused`], and then the vector is as it was.
pub fn reserve<T>(vec: &mut Vec<T, Purpose>, more: usize) -> Result<(), Refused> {
    vec.try_reserve_exact(more).map_err(|_| {
        let layout = Layout::array::<T>(vec.len().saturating_add(more));
        layout.map_or(Refused::Passing, |layout| Refused::of(vec.allocator(), layout))
    })
}

/// A copy of some bytes that belongs to a purpose.
///
/// # Errors
/// [`Refused`].
pub fn copy(bytes: &[u8], purpose: Purpose) -> Result<Box<[u8], Purpose>, Refused> {
    let mut copy = Vec::new_in(purpose);
    reserve(&mut copy, bytes.len())?;
    copy.extend_from_slice(bytes);
    // As long as its contents, so nothing has to move.
    Ok(copy.into_boxed_slice())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let text = match self {
            Refused::Exhausted(exhausted) => exhausted.to_string(),
            Refused::Passing => "no memory a moment ago".into(),
        };
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response()
    }
}
