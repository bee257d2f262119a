/**
 * RFC 7540/7541 conformance by h2spec (146 cases, strict ones included) against a server on our session.
 * The tool is built once from its Go module into `.cache/`; without Go the test is skipped.
 */

import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

import t from 'tap';

import { listenH2 } from './h2-server.ts';

const run = promisify(execFile);
const VERSION = 'v2.2.1';
const CACHE = resolve(import.meta.dirname, `../../.cache/h2spec-${VERSION}`);
const BUILD_TIMEOUT_MS = 300_000;
const RUN_TIMEOUT_MS = 120_000;

/** The tool has no go.mod of its own; these versions of what it imports were tried with it. */
const GO_MOD = `module h2specbuild

go 1.21

require (
	github.com/fatih/color v1.15.0
	github.com/inconshreveable/mousetrap v1.1.0
	github.com/mattn/go-colorable v0.1.13
	github.com/mattn/go-isatty v0.0.20
	github.com/spf13/cobra v1.8.0
	github.com/spf13/pflag v1.0.5
	github.com/summerwind/h2spec ${VERSION}+incompatible
	golang.org/x/net v0.33.0
	golang.org/x/sys v0.28.0
	golang.org/x/text v0.21.0
)
`;

/** Cases that we fail on purpose: their title, and why. */
const EXCEPTIONS: ReadonlyMap<string, string> = new Map();

async function hasGo(): Promise<boolean> {
  try {
    await run('go', ['version']);
    return true;
  } catch {
    return false;
  }
}

async function buildH2spec(): Promise<string> {
  const binary = join(CACHE, 'h2spec');
  if (existsSync(binary)) return binary;
  const folder = mkdtempSync(join(tmpdir(), 'h2spec-build-'));
  try {
    writeFileSync(join(folder, 'go.mod'), GO_MOD);
    const target = `github.com/summerwind/h2spec/cmd/h2spec`;
    await run('go', ['build', '-mod=mod', '-o', 'h2spec', target], {
      cwd: folder,
      timeout: BUILD_TIMEOUT_MS,
    });
    mkdirSync(CACHE, { recursive: true });
    await run('cp', [join(folder, 'h2spec'), `${binary}.new`]);
    // Another run may be starting the binary: it appears whole or not at all.
    renameSync(`${binary}.new`, binary);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return binary;
}

interface Case {
  readonly title: string;
  readonly passed: boolean;
}

/** The report has one `<testcase package classname ...>` per case, empty when it passed. */
function parseReport(xml: string): Case[] {
  const cases: Case[] = [];
  for (const match of xml.matchAll(/<testcase ([^>]*?)(\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const attribute = (name: string): string =>
      new RegExp(`${name}="([^"]*)"`).exec(match[1] ?? '')?.[1] ?? '';
    const body = match[3] ?? '';
    cases.push({
      title: `${attribute('package')}: ${attribute('classname')}`,
      passed: !/<(failure|error|skipped)/.test(body),
    });
  }
  return cases;
}

/** The tool, or why there is none. */
async function findH2spec(): Promise<{ binary: string } | { reason: string }> {
  if (!(await hasGo()) && !existsSync(join(CACHE, 'h2spec'))) {
    return { reason: 'no Go tool chain to build h2spec' };
  }
  try {
    return { binary: await buildH2spec() };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { reason: `h2spec could not be built: ${message.slice(0, 200)}` };
  }
}

const tool = await findH2spec();
const skip = 'reason' in tool ? tool.reason : false;

void t.test('HTTP/2 session passes every case of h2spec', { skip, timeout: 0 }, async (t) => {
  const binary = 'binary' in tool ? tool.binary : '';
  const server = await listenH2();
  const folder = mkdtempSync(join(tmpdir(), 'h2spec-run-'));
  t.teardown(() => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const report = join(folder, 'report.xml');
  const args = ['--strict', '--port', String(server.port), '--junit-report', report];
  // It exits with 1 when a case fails: the report says which.
  await run(binary, args, { timeout: RUN_TIMEOUT_MS }).catch(() => {});
  const cases = parseReport(readFileSync(report, 'utf8'));
  t.equal(cases.length, 146, 'all cases were run');
  for (const { title, passed } of cases) {
    const reason = EXCEPTIONS.get(title);
    t.equal(passed, reason === undefined, reason === undefined ? title : `${title} (${reason})`);
  }
});
