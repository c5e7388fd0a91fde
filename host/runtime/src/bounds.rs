//! What a component may be before it is compiled.
//!
//! Compiling takes time and memory that are out of proportion to the size of what is compiled: for
//! nested loops, great jump tables, long functions, and types that hold themselves twice on each of
//! twenty levels. Each of the limits is several times what compilers and bundlers of languages make,
//! interpreters included. What gets past them meets the limits of the process that compiles (`compile`).

use wasmparser::{
    ComponentAlias, ComponentDefinedType, ComponentOuterAliasKind, ComponentType, ComponentTypeDeclaration,
    ComponentTypeRef, ComponentValType, FunctionBody, InstanceTypeDeclaration, Operator, Parser, Payload,
    TypeBounds,
};

use super::ModuleError;

/// Bytes of a component.
const BYTES: u64 = 128 << 20;
/// Core modules and components within it, and how deep they lie.
const PARTS: u64 = 1_000;
const DEPTH: u64 = 16;
/// Functions, types, and other items of all parts.
const FUNCTIONS: u64 = 500_000;
const ITEMS: u64 = 1_000_000;
/// Of one function: its bytes, its locals, blocks within each other, loops within each other, and the
/// targets of its jump tables.
const BODY_BYTES: u64 = 1 << 20;
const LOCALS: u64 = 20_000;
const BLOCK_DEPTH: u64 = 10_000;
const LOOP_DEPTH: u64 = 200;
const TARGETS: u64 = 50_000;
/// Values that have to be carried over all its loops, at most: locals times loops.
const LOCALS_IN_LOOPS: u64 = 20_000_000;
/// A component's type with all types that it is made of, and all such types together.
const TYPE_SIZE: u64 = 50_000;
const TYPE_SIZES: u64 = 1_000_000;

/// Refuses what would take too much to compile.
pub(crate) fn check(bytes: &[u8]) -> Result<(), ModuleError> {
    let invalid = |error: wasmparser::BinaryReaderError| ModuleError::Invalid(error.to_string());
    limit("bytes", bytes.len() as u64, BYTES)?;
    let (mut parts, mut functions, mut items) = (0u64, 0u64, 0u64);
    let mut types = Types { scopes: vec![Vec::new()], total: 0 };
    // Which of the open parts are components: these have types of their own.
    let mut open = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                let is_component = matches!(payload, Payload::ComponentSection { .. });
                parts += 1;
                limit("modules and components in it", parts, PARTS)?;
                open.push(is_component);
                limit("levels of components", open.len() as u64, DEPTH)?;
                if is_component {
                    types.scopes.push(Vec::new());
                }
            }
            Payload::End(_) => {
                let is_component = open.pop() == Some(true);
                if is_component {
                    types.scopes.pop();
                }
            }
            Payload::FunctionSection(section) => {
                functions += u64::from(section.count());
                limit("functions", functions, FUNCTIONS)?;
            }
            Payload::TypeSection(section) => items += u64::from(section.count()),
            Payload::CoreTypeSection(section) => items += u64::from(section.count()),
            Payload::ImportSection(section) => items += u64::from(section.count()),
            Payload::ExportSection(section) => items += u64::from(section.count()),
            Payload::ElementSection(section) => items += u64::from(section.count()),
            Payload::GlobalSection(section) => items += u64::from(section.count()),
            Payload::InstanceSection(section) => items += u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => items += u64::from(section.count()),
            Payload::ComponentCanonicalSection(section) => items += u64::from(section.count()),
            Payload::CodeSectionEntry(body) => function(body)?,
            Payload::ComponentTypeSection(section) => {
                items += u64::from(section.count());
                for ty in section.clone() {
                    types.define(&ty.map_err(invalid)?)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                items += u64::from(section.count());
                for import in section.clone() {
                    types.named(import.map_err(invalid)?.ty);
                }
            }
            Payload::ComponentExportSection(section) => {
                items += u64::from(section.count());
                for export in section.clone() {
                    let export = export.map_err(invalid)?;
                    if export.kind == wasmparser::ComponentExternalKind::Type {
                        let size = types.size_at(0, export.index);
                        types.push(size);
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                items += u64::from(section.count());
                for alias in section.clone() {
                    types.alias(&alias.map_err(invalid)?);
                }
            }
            _ => {}
        }
        limit("types, imports, exports and other items", items, ITEMS)?;
    }
    Ok(())
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), ModuleError> {
    match found > limit {
        true => Err(ModuleError::TooComplex { what, found, limit }),
        false => Ok(()),
    }
}

/// Looks at the instructions of a function.
fn function(body: &FunctionBody<'_>) -> Result<(), ModuleError> {
    let invalid = |error: wasmparser::BinaryReaderError| ModuleError::Invalid(error.to_string());
    limit("bytes in one function", body.range().len() as u64, BODY_BYTES)?;
    let mut locals = 0u64;
    for local in body.get_locals_reader().map_err(invalid)? {
        locals += u64::from(local.map_err(invalid)?.0);
    }
    limit("local variables in one function", locals, LOCALS)?;
    let (mut depth, mut loops, mut all_loops, mut targets) = (Vec::new(), 0u64, 0u64, 0u64);
    for operator in body.get_operators_reader().map_err(invalid)? {
        match operator.map_err(invalid)? {
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => depth.push(false),
            Operator::Loop { .. } => {
                depth.push(true);
                loops += 1;
                all_loops += 1;
                limit("loops within each other", loops, LOOP_DEPTH)?;
            }
            Operator::End => loops -= u64::from(depth.pop() == Some(true)),
            Operator::BrTable { targets: table } => {
                targets += u64::from(table.len());
                limit("targets of jump tables in one function", targets, TARGETS)?;
            }
            _ => {}
        }
        limit("blocks within each other", depth.len() as u64, BLOCK_DEPTH)?;
    }
    limit("local variables times loops in one function", locals * all_loops, LOCALS_IN_LOOPS)
}

/// The sizes of types: how many types each is made of, itself included. What another instance exports
/// counts as one: that it is too large shows where it is made.
struct Types {
    /// By their numbers, for each of the components that are open.
    scopes: Vec<Vec<u64>>,
    total: u64,
}

impl Types {
    fn push(&mut self, size: u64) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(size);
        }
    }

    /// The size of a type so many scopes further out.
    fn size_at(&self, out: u32, index: u32) -> u64 {
        let scope = self.scopes.iter().rev().nth(out as usize);
        scope.and_then(|scope| scope.get(index as usize)).copied().unwrap_or(1)
    }

    fn of(&self, ty: ComponentValType) -> u64 {
        match ty {
            ComponentValType::Primitive(_) => 1,
            ComponentValType::Type(index) => self.size_at(0, index),
        }
    }

    fn define(&mut self, ty: &ComponentType<'_>) -> Result<(), ModuleError> {
        let size = self.size(ty)?;
        limit("types in one type", size, TYPE_SIZE)?;
        self.total = self.total.saturating_add(size);
        limit("types in all types", self.total, TYPE_SIZES)?;
        self.push(size);
        Ok(())
    }

    fn size(&mut self, ty: &ComponentType<'_>) -> Result<u64, ModuleError> {
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(1u64, u64::saturating_add);
        Ok(match ty {
            ComponentType::Defined(ty) => {
                let of = |ty: &ComponentValType| self.of(*ty);
                match ty {
                    ComponentDefinedType::Record(fields) => sum(&mut fields.iter().map(|(_, ty)| of(ty))),
                    ComponentDefinedType::Variant(cases) => {
                        sum(&mut cases.iter().map(|case| case.ty.as_ref().map_or(1, of)))
                    }
                    ComponentDefinedType::Tuple(types) => sum(&mut types.iter().map(of)),
                    ComponentDefinedType::Flags(names) | ComponentDefinedType::Enum(names) => {
                        1 + names.len() as u64
                    }
                    ComponentDefinedType::List(ty) | ComponentDefinedType::Option(ty) => {
                        of(ty).saturating_add(1)
                    }
                    ComponentDefinedType::FixedLengthList(ty, length) => {
                        of(ty).saturating_mul(u64::from(*length)).saturating_add(1)
                    }
                    ComponentDefinedType::Map(key, value) => sum(&mut [of(key), of(value)].into_iter()),
                    ComponentDefinedType::Result { ok, err } => {
                        sum(&mut [ok, err].into_iter().flatten().map(of))
                    }
                    ComponentDefinedType::Future(ty) | ComponentDefinedType::Stream(ty) => {
                        ty.as_ref().map_or(1, of).saturating_add(1)
                    }
                    ComponentDefinedType::Primitive(_)
                    | ComponentDefinedType::Own(_)
                    | ComponentDefinedType::Borrow(_) => 1,
                }
            }
            ComponentType::Func(ty) => {
                let types = ty.params.iter().map(|(_, ty)| ty).chain(&ty.result);
                sum(&mut types.map(|ty| self.of(*ty)))
            }
            ComponentType::Resource { .. } => 1,
            ComponentType::Instance(declarations) => {
                self.scopes.push(Vec::new());
                for declaration in declarations {
                    match declaration {
                        InstanceTypeDeclaration::Type(ty) => self.define(ty)?,
                        InstanceTypeDeclaration::Alias(alias) => self.alias(alias),
                        InstanceTypeDeclaration::Export { ty, .. } => self.named(*ty),
                        InstanceTypeDeclaration::CoreType(_) => {}
                    }
                }
                self.close()
            }
            ComponentType::Component(declarations) => {
                self.scopes.push(Vec::new());
                for declaration in declarations {
                    match declaration {
                        ComponentTypeDeclaration::Type(ty) => self.define(ty)?,
                        ComponentTypeDeclaration::Alias(alias) => self.alias(alias),
                        ComponentTypeDeclaration::Export { ty, .. } => self.named(*ty),
                        ComponentTypeDeclaration::Import(import) => self.named(import.ty),
                        ComponentTypeDeclaration::CoreType(_) => {}
                    }
                }
                self.close()
            }
        })
    }

    /// The size of what was declared since the last scope was opened.
    fn close(&mut self) -> u64 {
        self.scopes.pop().unwrap_or_default().into_iter().fold(1, u64::saturating_add)
    }

    /// Something is imported or exported by a name, which makes a type again if it is one.
    fn named(&mut self, ty: ComponentTypeRef) {
        if let ComponentTypeRef::Type(bounds) = ty {
            let size = match bounds {
                TypeBounds::Eq(index) => self.size_at(0, index),
                TypeBounds::SubResource => 1,
            };
            self.push(size);
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match alias {
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, count, index } => {
                let size = self.size_at(*count, *index);
                self.push(size);
            }
            ComponentAlias::InstanceExport { kind: wasmparser::ComponentExternalKind::Type, .. } => {
                self.push(1)
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        check(&wat::parse_str(text).unwrap()).unwrap_err().to_string()
    }

    fn in_a_function(body: &str) -> String {
        format!("(component (core module (func (param i32) (local i32 i32) {body})))")
    }

    #[test]
    fn types_that_double_at_each_level_are_refused() {
        let levels = |levels: u32| {
            let types = (1..levels).map(|level| format!("(type (tuple {0} {0}))", level - 1));
            format!("(component (type (tuple u8 u8)) {})", types.collect::<String>())
        };
        assert!(wat::parse_str(levels(30)).unwrap().len() < 2_000);
        assert!(refused(&levels(30)).contains("types in one type"));
        assert!(check(&wat::parse_str(levels(10)).unwrap()).is_ok());
        // The same within the type of an instance, with what lies outside.
        let within = levels(15).replace("(component", "(component (type (instance");
        let within = format!("{} (export \"x\" (type (eq 14))))))", &within[..within.len() - 1]);
        assert!(check(&wat::parse_str(within).unwrap()).is_err());
    }

    #[test]
    fn what_takes_more_than_its_size_to_compile_is_refused() {
        let nested = |open: &str, levels: usize| {
            in_a_function(&format!("{}{}", format!("({open} ").repeat(levels), ")".repeat(levels)))
        };
        assert!(refused(&nested("loop", 300)).contains("loops within each other"));
        assert!(check(&wat::parse_str(nested("loop", 100)).unwrap()).is_ok());
        let table = format!("(block (br_table {} (local.get 0)))", "0 ".repeat(60_000));
        assert!(refused(&in_a_function(&table)).contains("jump tables"));
        let long = "(local.set 1 (i32.add (local.get 1) (local.get 2)))".repeat(160_000);
        assert!(refused(&in_a_function(&long)).contains("bytes in one function"));
        let locals = format!("(component (core module (func (local {}))))", "i32 ".repeat(30_000));
        assert!(refused(&locals).contains("local variables"));
        let deep = format!("{}{}", "(component ".repeat(20), ")".repeat(20));
        assert!(refused(&deep).contains("levels of components"));
        let many = format!("(component {})", "(core module)".repeat(1_100));
        assert!(refused(&many).contains("modules and components"));
    }
}
