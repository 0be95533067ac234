//! Which functions of a module can still be called once some of its exports are gone.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use wasmparser::{ElementItems, ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef};

/// The functions of a module, by their index.
pub struct Functions<'a> {
    /// Functions that the module imports: they come before its own.
    imported: u32,
    /// The module's own functions.
    bodies: Vec<FunctionBody<'a>>,
    /// Functions that are called without a call in the code: the start function, and those in tables and globals.
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
                _ => {}
            }
        }
        Ok(functions)
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

    /// The module's own functions in order, each with whether it can be called when only the exports that `kept` accepts are
    /// left.
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
