//! Values: what a program computes with. Each is an object on the heap, and so are environments and the interpreter's
//! own stack.

use spanheap::{Array, Edge, Exhausted, Gc, Trace};

/// What a thread may do with the heap between two safepoints.
pub(crate) type Context<'g, 'h> = spanheap::collect::Context<'g, 'h>;
/// A reference to a value.
pub(crate) type Ref<'g> = Gc<'g, Value>;

/// A value.
#[derive(Trace)]
pub(crate) enum Value {
    /// The empty list.
    Nil,
    /// True or false.
    Truth(bool),
    /// A number.
    Number(i64),
    /// A string.
    Text(Edge<Array<u8>>),
    /// A name, and what it means globally. Equal names are the same object.
    Symbol { name: Edge<Array<u8>>, global: Edge<Value> },
    /// Two values; lists are made of them.
    Pair { head: Edge<Value>, tail: Edge<Value> },
    /// A function of the program's, with the environment that it was made in.
    Closure { parameters: Edge<Value>, body: Edge<Value>, scope: Edge<Scope> },
    /// A function of the interpreter's, by its place in the table.
    Builtin(usize),
}

/// Names bound to values, in the order of a closure's parameters.
#[derive(Trace)]
pub(crate) struct Scope {
    /// A list of symbols.
    pub(crate) names: Edge<Value>,
    /// A list of values, as long as that of names.
    pub(crate) values: Edge<Value>,
    /// Where to look further; empty for the outermost.
    pub(crate) outer: Edge<Scope>,
}

/// Makes an object with edges, which are set once it is on the heap.
fn edge<'g, T>(cx: &Context<'g, '_>, place: &Edge<T>, to: Gc<'g, T>) {
    place.set(cx, Some(to));
}

pub(crate) fn number<'g>(cx: &Context<'g, '_>, number: i64) -> Result<Ref<'g>, Exhausted> {
    cx.allocate(Value::Number(number))
}

pub(crate) fn truth<'g>(cx: &Context<'g, '_>, truth: bool) -> Result<Ref<'g>, Exhausted> {
    cx.allocate(Value::Truth(truth))
}

pub(crate) fn text<'g>(cx: &Context<'g, '_>, text: &str) -> Result<Ref<'g>, Exhausted> {
    let bytes = cx.allocate_text(text)?;
    let value = cx.allocate(Value::Text(Edge::null()))?;
    if let Value::Text(place) = value.get() {
        edge(cx, place, bytes);
    }
    Ok(value)
}

pub(crate) fn symbol<'g>(cx: &Context<'g, '_>, name: &str) -> Result<Ref<'g>, Exhausted> {
    let bytes = cx.allocate_text(name)?;
    let value = cx.allocate(Value::Symbol { name: Edge::null(), global: Edge::null() })?;
    if let Value::Symbol { name, .. } = value.get() {
        edge(cx, name, bytes);
    }
    Ok(value)
}

pub(crate) fn pair<'g>(cx: &Context<'g, '_>, first: Ref<'g>, rest: Ref<'g>) -> Result<Ref<'g>, Exhausted> {
    let value = cx.allocate(Value::Pair { head: Edge::null(), tail: Edge::null() })?;
    if let Value::Pair { head, tail } = value.get() {
        edge(cx, head, first);
        edge(cx, tail, rest);
    }
    Ok(value)
}

pub(crate) fn closure<'g>(
    cx: &Context<'g, '_>,
    names: Ref<'g>,
    code: Ref<'g>,
    here: Option<Gc<'g, Scope>>,
) -> Result<Ref<'g>, Exhausted> {
    let value =
        cx.allocate(Value::Closure { parameters: Edge::null(), body: Edge::null(), scope: Edge::null() })?;
    if let Value::Closure { parameters, body, scope } = value.get() {
        edge(cx, parameters, names);
        edge(cx, body, code);
        scope.set(cx, here);
    }
    Ok(value)
}

pub(crate) fn scope<'g>(
    cx: &Context<'g, '_>,
    names: Ref<'g>,
    values: Ref<'g>,
    outer: Option<Gc<'g, Scope>>,
) -> Result<Gc<'g, Scope>, Exhausted> {
    let scope = cx.allocate(Scope { names: Edge::null(), values: Edge::null(), outer: Edge::null() })?;
    edge(cx, &scope.names, names);
    edge(cx, &scope.values, values);
    scope.outer.set(cx, outer);
    Ok(scope)
}

/// First and rest of a pair.
pub(crate) fn parts<'g>(cx: &Context<'g, '_>, value: Ref<'g>) -> Option<(Ref<'g>, Ref<'g>)> {
    match value.get() {
        Value::Pair { head, tail } => Some((head.get(cx)?, tail.get(cx)?)),
        _ => None,
    }
}

/// The elements of a list, as far as it is one.
pub(crate) fn elements<'a, 'g, 'h>(
    cx: &'a Context<'g, 'h>,
    list: Ref<'g>,
) -> impl Iterator<Item = Ref<'g>> + use<'a, 'g, 'h> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let (head, tail) = parts(cx, rest)?;
        rest = tail;
        Some(head)
    })
}

/// A list of values.
pub(crate) fn list<'g>(cx: &Context<'g, '_>, values: &[Ref<'g>]) -> Result<Ref<'g>, Exhausted> {
    let nil = cx.allocate(Value::Nil)?;
    values.iter().rev().try_fold(nil, |rest, &value| pair(cx, value, rest))
}

/// The name of a symbol.
pub(crate) fn name<'g>(cx: &Context<'g, '_>, value: Ref<'g>) -> Option<&'g str> {
    match value.get() {
        Value::Symbol { name, .. } => Some(name.get(cx)?.text()),
        _ => None,
    }
}

/// Writes a value as a program would; strings with quotes if `quoted`.
pub(crate) fn show<'g>(cx: &Context<'g, '_>, value: Ref<'g>, quoted: bool, out: &mut String) {
    match value.get() {
        Value::Nil => out.push_str("()"),
        Value::Truth(truth) => out.push_str(if *truth { "#t" } else { "#f" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Text(text) => {
            let text = text.get(cx).map_or("", Gc::text);
            if quoted { out.push_str(&format!("{text:?}")) } else { out.push_str(text) }
        }
        Value::Symbol { .. } => out.push_str(name(cx, value).unwrap_or("?")),
        Value::Closure { .. } => out.push_str("#<function>"),
        Value::Builtin(_) => out.push_str("#<builtin>"),
        Value::Pair { .. } => {
            let mut rest = value;
            let mut before = '(';
            while let Some((head, tail)) = parts(cx, rest) {
                out.push(before);
                show(cx, head, quoted, out);
                (before, rest) = (' ', tail);
            }
            if !matches!(rest.get(), Value::Nil) {
                out.push_str(" . ");
                show(cx, rest, quoted, out);
            }
            out.push(')');
        }
    }
}
