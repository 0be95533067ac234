//! Which functions of a module can still be called once some of its exports are gone.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use wasmparser::{
    ElementItems, ExternalKind, FunctionBody, KnownCustom, Name, NameSectionReader, Operator, Parser,
    Payload, TypeRef,
};

/// The functions of a module, by their index.
pub struct Functions<'a> {
    /// Functions that the module imports: they come before its own.
    imported: u32,
    /// The module's own functions.
    bodies: Vec<FunctionBody<'a>>,
    /// Functions that are called without a call in the code: the start function, and those in tables and
    /// globals.
    taken: BTreeSet<u32>,
    /// Exported functions by name.
    exported: Vec<(&'a str, u32)>,
}

impl<'a> Functions<'a> {
    /// Reads a module.
    pub fn of(module: &'a [u8]) -> Result<Functions<'a>> {
        let mut functions =
            Functions { imported: 0, bodies: Vec::new(), taken: BTreeSet::new(), exported: Vec::new() };
        for payload in Parser::new(0).parse_all(module) {
            match payload.context("this is no Wasm module")? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        functions.imported += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::StartSection { func, .. } => {
                    functions.taken.insert(func);
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export?;
                        if export.kind == ExternalKind::Func {
                            functions.exported.push((export.name, export.index));
                        }
                    }
                }
                Payload::ElementSection(elements) => {
                    for element in elements {
                        functions.take_elements(element?.items)?;
                    }
                }
                Payload::GlobalSection(globals) => {
                    for global in globals {
                        take_references(global?.init_expr.get_operators_reader(), &mut functions.taken)?;
                    }
                }
                Payload::CodeSectionEntry(body) => functions.bodies.push(body),
                // The last section.
                Payload::CustomSection(section) => {
                    if let KnownCustom::Name(names) = section.as_known() {
                        functions.leave_out_defaults(names)?;
                    }
                }
                _ => {}
            }
        }
        Ok(functions)
    }

    /// A function that is only pointed to cannot be called if the SDK never calls it through a pointer.
    fn leave_out_defaults(&mut self, names: NameSectionReader<'_>) -> Result<()> {
        for name in names {
            if let Name::Function(names) = name? {
                for naming in names {
                    let naming = naming?;
                    if is_default(naming.name) {
                        self.taken.remove(&naming.index);
                    }
                }
            }
        }
        Ok(())
    }

    fn take_elements(&mut self, items: ElementItems<'_>) -> Result<()> {
        match items {
            ElementItems::Functions(list) => {
                for function in list {
                    self.taken.insert(function?);
                }
            }
            ElementItems::Expressions(_, list) => {
                for expression in list {
                    take_references(expression?.get_operators_reader(), &mut self.taken)?;
                }
            }
        }
        Ok(())
    }

    /// The module's own functions in order, each with whether it can be called when only the exports that
    /// `kept` accepts are left.
    pub fn reachable(&self, kept: impl Fn(&str) -> bool) -> Result<Vec<(&FunctionBody<'a>, bool)>> {
        let exported = self.exported.iter().filter(|(name, _)| kept(name)).map(|&(_, index)| index);
        let mut open: Vec<u32> = self.taken.iter().copied().chain(exported).collect();
        let mut seen = BTreeSet::new();
        while let Some(function) = open.pop() {
            let own = function.checked_sub(self.imported).and_then(|own| self.bodies.get(own as usize));
            if let Some(body) = own.filter(|_| seen.insert(function)) {
                let mut called = BTreeSet::new();
                take_references(body.get_operators_reader()?, &mut called)?;
                open.extend(called);
            }
        }
        let indices = self.imported..;
        Ok(indices.zip(&self.bodies).map(|(index, body)| (body, seen.contains(&index))).collect())
    }
}

/// Whether a function is one of the hundred that the SDK's traits offer to their implementers: each makes a
/// host call. All that the SDK itself calls on an implementer, through a table of pointers, has names that
/// begin otherwise.
fn is_default(symbol: &str) -> bool {
    const CALLED: [&str; 3] = ["on_", "create_", "get_type"];
    let identifier = |rest: &str| {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (length, rest) = rest.split_at(digits);
        rest.split_at_checked(length.parse().ok()?).map(|(name, rest)| (name.to_owned(), rest.to_owned()))
    };
    let method = symbol
        .split_once("10proxy_wasm6traits")
        .and_then(|(_, rest)| identifier(rest))
        .filter(|(of, _)| of.ends_with("Context"))
        .and_then(|(_, rest)| identifier(&rest));
    method.is_some_and(|(method, _)| !CALLED.iter().any(|start| method.starts_with(start)))
}

/// Collects the functions that code calls or takes a reference to.
fn take_references(operators: wasmparser::OperatorsReader<'_>, into: &mut BTreeSet<u32>) -> Result<()> {
    for operator in operators {
        if let Operator::Call { function_index }
        | Operator::ReturnCall { function_index }
        | Operator::RefFunc { function_index } = operator?
        {
            into.insert(function_index);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sdk_offers_is_told_from_what_it_calls() {
        for (symbol, offered) in [
            ("_ZN10proxy_wasm6traits7Context12get_property17h0123456789abcdefE", true),
            ("_ZN10proxy_wasm6traits11HttpContext24get_http_request_headers17h0123456789abcdefE", true),
            ("_ZN10proxy_wasm6traits11HttpContext23on_http_request_headers17h0123456789abcdefE", false),
            ("_ZN10proxy_wasm6traits11RootContext19create_http_context17h0123456789abcdefE", false),
            ("_ZN10proxy_wasm6traits11RootContext8get_type17h0123456789abcdefE", false),
            ("_ZN10proxy_wasm9hostcalls3log17h0123456789abcdefE", false),
            ("_ZN8warmpath6router6Router6decide17h0123456789abcdefE", false),
            ("dlmalloc", false),
        ] {
            assert_eq!(is_default(symbol), offered, "{symbol}");
        }
    }
}
