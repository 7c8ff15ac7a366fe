# Sets that are copied, sorted, grouped and made from lists, recursion, and a fixpoint of overlays:
# `nix-instantiate --eval --strict sets.nix --argstr count N`.
{ count }:
let
  inherit (builtins) foldl' genList listToAttrs attrNames attrValues mapAttrs concatMap sort length groupBy;
  n = builtins.fromJSON count;
  modulo = a: b: a - (a / b) * b;
  sum = foldl' (a: b: a + b) 0;

  copies = foldl' (set: i: set // { "key${toString (modulo i 64)}" = { at = i; first = set.key0.at or 0; square = i * i; }; })
    { } (genList (i: i) n);

  package = i: {
    name = "package-${toString i}";
    value = { version = "1.${toString i}"; needs = genList (j: "package-${toString (i / (j + 2))}") 4; };
  };
  packages = mapAttrs
    (name: value: value // { hash = builtins.hashString "sha256" (name + value.version); needed = length value.needs; })
    (listToAttrs (genList package (n / 4)));
  hashes = sum (map (name: builtins.stringLength packages.${name}.hash + packages.${name}.needed) (attrNames packages));

  sorted = sort (a: b: a.key < b.key) (genList (i: { key = modulo (i * 7919) 10007; value = i; }) n);
  groups = groupBy (x: toString (x.key / 100)) sorted;
  grouped = sum (map (group: sum (map (x: x.value) group)) (attrValues groups));

  fibonacci = i: if i < 2 then i else fibonacci (i - 1) + fibonacci (i - 2);
  pairs = sum (map (i: length (concatMap (x: [ x (x + 1) ]) (genList (j: i + j) 50))) (genList (i: i) (n / 10)));

  fix = f: let x = f x; in x;
  overlay = i: final: before:
    { "part${toString i}" = { value = i; above = if i == 0 then 0 else final."part${toString (i - 1)}".value; }; }
    // { parts = (before.parts or 0) + 1; };
  whole = fix (final: foldl' (before: over: before // over final before) { } (genList overlay 3000));
  above = sum (map (x: x.above) (attrValues (removeAttrs whole [ "parts" ])));
in
[ copies.key5.at copies.key0.square hashes grouped (fibonacci 26) pairs above whole.parts ]
