#!/usr/bin/env bash
# NiiVue from its npm package, without what the pages do not use, into the folder named as argument: one file, and the licences of all in it.
set -euo pipefail
cd "$(dirname "$0")"
target=$1
npm ci --silent --ignore-scripts --no-audit --no-fund
node_modules/.bin/esbuild entry.js --bundle --minify --format=iife --global-name=niivue --target=es2022 --alias:zarrita=./no_zarr.js \
    --legal-comments=none --log-level=warning --outfile="$target/niivue.min.js"
{
    echo "niivue.min.js is made of these packages, each under its own licence."
    for package in @niivue/niivue gl-matrix nifti-reader-js fflate @lukeed/uuid @ungap/structured-clone array-equal; do
        folder=node_modules/$package
        printf '\n==== %s %s\n\n' "$package" "$(node -p "const p = require('./$folder/package.json'); p.version + ', ' + p.license")"
        # NiiVue's package comes without its text, which stands in its repository
        if [ "$package" = @niivue/niivue ]; then cat niivue_licence.txt; else cat "$folder"/[Ll][Ii][Cc][Ee][Nn][Ss][Ee]*; fi
    done
} | sed 's/[[:space:]]*$//' | tr -d '\r' >"$target/niivue_licences.txt"
