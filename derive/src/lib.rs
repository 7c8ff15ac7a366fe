//! `#[derive(Trace)]`: tells the collector where a type keeps its references.
//!
//! A struct's map is put together from its fields' maps at their offsets. Variants of an enum lie over each other, so
//! if any field of any variant holds references, every word of the enum may: the collector looks at such words with
//! care, since a word that is no reference does no harm.
//!
//! # Safety
//! What is written here is the implementation of an unsafe trait: a field that is left out would not be looked at. So
//! every field of a struct has its step, and an enum with references counts whole.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::{
    Data, DeriveInput, Error, Field, Fields, Member, Type, WherePredicate, parse_macro_input, parse_quote,
};

/// Implements `spanheap::Trace`. Every field's type must implement it; plain data that never holds a reference may be
/// wrapped in `spanheap::collect::Plain`. A type
/// with `Drop` of its own is refused, since its references may lead nowhere when it is dropped: such data goes into a
/// field that is `Plain`.
#[proc_macro_derive(Trace)]
pub fn trace(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    implement(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn implement(input: &DeriveInput) -> Result<Tokens, Error> {
    let map = match &input.data {
        Data::Struct(data) => of_struct(&data.fields),
        Data::Enum(data) => of_enum(data.variants.iter().flat_map(|variant| &variant.fields)),
        Data::Union(data) => {
            let message = "a union does not say which of its fields is there; implement Trace by hand";
            return Err(Error::new(data.union_token.span, message));
        }
    };
    let name = &input.ident;
    let (_, types, _) = input.generics.split_for_impl();
    let mut generics = input.generics.clone();
    let bounds = generics.make_where_clause();
    for field in fields(&input.data) {
        let of_field = &field.ty;
        // A type that names itself through an edge is bound by what it is made of, not by itself.
        if names_a_parameter(of_field, &input.generics) {
            let bound: WherePredicate = parse_quote!(#of_field: ::spanheap::Trace);
            bounds.predicates.push(bound);
        }
    }
    let (implementation, _, bounds) = generics.split_for_impl();
    let (bare, _, _) = input.generics.split_for_impl();
    let own_bounds = &input.generics.where_clause;
    Ok(quote! {
        // A destructor could look at references that lead nowhere any more; data with one is wrapped in `Plain`.
        const _: () = {
            trait TypesWithReferencesHaveNoDestructorOfTheirOwn {}
            #[allow(drop_bounds)]
            impl<T: ?Sized + ::core::ops::Drop> TypesWithReferencesHaveNoDestructorOfTheirOwn for T {}
            impl #bare TypesWithReferencesHaveNoDestructorOfTheirOwn for #name #types #own_bounds {}
        };
        // SAFETY: every field's own map stands at the field's offset, or all words count.
        #[automatically_derived]
        unsafe impl #implementation ::spanheap::Trace for #name #types #bounds {
            const MAP: ::spanheap::collect::Map = #map;
        }
    })
}

fn of_struct(fields: &Fields) -> Tokens {
    let steps = fields.iter().enumerate().map(|(at, field)| {
        let (of_field, member) = (&field.ty, place(field, at));
        quote! {
            .with(::core::mem::offset_of!(Self, #member), &<#of_field as ::spanheap::Trace>::MAP)
        }
    });
    quote! { ::spanheap::collect::Map::NONE #(#steps)* }
}

fn of_enum<'a>(fields: impl Iterator<Item = &'a Field>) -> Tokens {
    let steps = fields.map(|field| {
        let of_field = &field.ty;
        quote! { || <#of_field as ::spanheap::Trace>::MAP.has_any() }
    });
    quote! {
        if false #(#steps)* {
            ::spanheap::collect::Map::every_word_of::<Self>()
        } else {
            ::spanheap::collect::Map::NONE
        }
    }
}

fn place(field: &Field, at: usize) -> Member {
    field.ident.clone().map_or_else(|| Member::from(at), Member::from)
}

fn fields(data: &Data) -> Vec<&Field> {
    match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(_) => Vec::new(),
    }
}

/// Whether one of the type's parameters stands in a field's type.
fn names_a_parameter(of_field: &Type, generics: &syn::Generics) -> bool {
    let text = quote!(#of_field);
    let parameters: Vec<_> =
        generics.type_params().map(|parameter| format_ident!("{}", parameter.ident)).collect();
    mentions(text, &parameters)
}

fn mentions(text: Tokens, names: &[proc_macro2::Ident]) -> bool {
    text.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => names.contains(&ident),
        proc_macro2::TokenTree::Group(group) => mentions(group.stream(), names),
        _ => false,
    })
}
