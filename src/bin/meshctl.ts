#!/usr/bin/env node
/** The `meshctl` program: hands the command line over, sets the exit code. */

import { runMeshctl } from '../app/meshctl.ts';

process.exitCode = await runMeshctl(process.argv.slice(2));
