/**
 * The house rules as functions from a file's path and text to what is wrong with it. `test/tidy.test.ts` runs
 * them over the repository and shows each of them a file that breaks it.
 */

import { posix } from 'node:path';

import { importsOf, lineAt, readSource, type SourceText } from './source-text.ts';

/** A folder imports from lower layers and from itself; folders of one layer never import each other. */
export const LAYERS: Readonly<Record<string, number>> = {
  base: 0,
  core: 1,
  http: 1,
  linux: 1,
  identity: 2,
  policy: 2,
  state: 2,
  discovery: 3,
  tunnel: 3,
  redirect: 3,
  node: 4,
  waypoint: 4,
  controlplane: 4,
  telemetry: 4,
  kubernetes: 5,
  files: 5,
  admin: 5,
  dashboard: 6,
  cli: 6,
  demo: 6,
  app: 7,
  bin: 8,
};

/** Which folders may name a package; everybody else asks them. */
const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  'node-forge': ['identity'],
  '@bufbuild/protobuf': ['discovery'],
  '@redis/client': ['waypoint'],
  yaml: ['files', 'cli'],
  koffi: ['linux'],
  pino: ['telemetry'],
  'prom-client': ['telemetry'],
  commander: ['cli', 'bin'],
  re2js: ['base'],
  jose: ['waypoint'],
  '@kubernetes/client-node': ['kubernetes', 'cli'],
};

const FILE_LINES_MAX = 600;
const FILE_NAMES_BANNED = /^(?:utils?|helpers?|common|managers?|types?|index|misc|shared)\.ts$/;
const FILE_NAME = /^[a-z0-9]+(?:-[a-z0-9]+)*(?:\.(?:property|test|soak|d))*\.ts$/;

interface Ban {
  readonly pattern: RegExp;
  readonly instead: string;
  /** Whether quoted text counts too. Default: code only. */
  readonly inStrings?: true;
  /** Files and folders where it is right, relative to the repository. */
  readonly except?: readonly string[];
}

const TIME = ['src/base/clock.ts', 'src/app/', 'src/demo/', 'src/cli/', 'src/bin/'];

/** For `src/`. */
const SOURCE_BANS: readonly Ban[] = [
  { pattern: /\bprocess\s*\.\s*env\b/, instead: 'settings from app/', except: ['src/app/'] },
  { pattern: /\bDate\s*\.\s*now\b|\bnew Date\(\s*\)/, instead: 'Clock.wallMs', except: TIME },
  { pattern: /\bperformance\s*\.|\bprocess\s*\.\s*hrtime\b/, instead: 'Clock.nowMs', except: TIME },
  {
    pattern: /(?<![\w.#])(?:setTimeout|setInterval)\b/,
    instead: 'Clock.after or every',
    except: TIME,
  },
  { pattern: /\bfrom\s*['"](?:node:)?timers/, instead: 'base/clock.ts', inStrings: true },
  {
    pattern: /\bMath\s*\.\s*random\b/,
    instead: 'Random.next',
    except: ['src/base/system-random.ts'],
  },
  { pattern: /(?<![\w.#])console\s*\./, instead: 'the injected Logger or the io of a command' },
  { pattern: /^(?:export\s+)?(?:let|var)\b/m, instead: 'state inside a function or class' },
  { pattern: /\bexport\s+default\b/, instead: 'a named export' },
  { pattern: /\bexport\s*\*/, instead: 'imports from the file itself, no barrels' },
  { pattern: /^(?:export\s+)?(?:const\s+)?enum\s/m, instead: 'a const object or a union' },
  { pattern: /(?::|\bas|<)\s*any\b(?!\s*\()/, instead: 'unknown and a check' },
  { pattern: /\brejectUnauthorized\s*:\s*false\b/, instead: 'a checkServerIdentity of our own' },
  {
    pattern: /NODE_TLS_REJECT_UNAUTHORIZED/,
    instead: 'a trusted root',
    inStrings: true,
    // Refuses to start with it.
    except: ['src/app/hardening.ts'],
  },
  { pattern: /\.getPeerCertificate\(\s*true\s*\)/, instead: 'getPeerX509Certificate' },
  {
    pattern: /\bnew RegExp\((?!\s*(?:['"`]|String\.raw`))/,
    instead: 'a literal, or code that searches',
  },
];

/** For `src/` and `test/`. */
const ALL_BANS: readonly Ban[] = [
  { pattern: /\.removeAllListeners\(\s*\)/, instead: 'removeAllListeners with an event name' },
  { pattern: /\.skip\(\s*\)/, instead: 'skip with the reason' },
  { pattern: /\.only\(|\bonly:\s*true/, instead: 'the whole file' },
];

/** Words that say where or with what something was made. Split, so that this file does not break its own rule. */
const FOREIGN_WORDS: readonly RegExp[] = [
  /(?<![\w.])\/(?:home|root|Users)\/[a-z]/,
  /(?<![\w.~-])\/work\/[a-z]/,
  /registry\.(?:npm[j]s|yarn[p]kg)/,
  /\b(?:artifact[o]ry|jfr[o]g)\b/i,
  /\b(?:cla[u]de|anthr[o]pic|chatg[p]t|cop[i]lot)\b/i,
];

function inList(path: string, list: readonly string[]): boolean {
  return list.some((entry) => path === entry || (entry.endsWith('/') && path.startsWith(entry)));
}

function checkBans(path: string, source: SourceText, bans: readonly Ban[]): string[] {
  return bans.flatMap((ban) => {
    if (ban.except !== undefined && inList(path, ban.except)) return [];
    const text = ban.inStrings === true ? source.withStrings : source.code;
    const match = ban.pattern.exec(text);
    if (match === null) return [];
    return [`${path}:${lineAt(text, match.index)}: "${match[0].trim()}"; use ${ban.instead}`];
  });
}

/** Layers, packages and the form of import paths; for files under `src/`. */
export function checkImports(path: string, text: string): string[] {
  const folder = path.split('/')[1] ?? '';
  const layer = LAYERS[folder];
  if (layer === undefined) return [`${path}: folder "${folder}" is not in the layer table`];
  const wrong: string[] = [];
  for (const { specifier, line } of importsOf(readSource(text))) {
    const at = `${path}:${line}: import of "${specifier}"`;
    if (specifier.startsWith('.')) {
      const target = posix.join(posix.dirname(path), specifier);
      const [top, targetFolder = ''] = target.split('/');
      const targetLayer = LAYERS[targetFolder];
      if (!/\.(?:ts|json)$/.test(specifier)) wrong.push(`${at} needs its ending`);
      if (top !== 'src' || targetLayer === undefined) wrong.push(`${at} leaves src/`);
      else if (targetFolder !== folder && targetLayer >= layer) {
        wrong.push(`${at}: ${folder}/ is layer ${layer}, ${targetFolder}/ is layer ${targetLayer}`);
      }
    } else if (!specifier.startsWith('node:')) {
      const parts = specifier.split('/');
      const name = specifier.startsWith('@') ? parts.slice(0, 2).join('/') : (parts[0] ?? '');
      const folders = PACKAGES[name];
      if (folders === undefined) wrong.push(`${at}: no folder may use this package`);
      else if (!folders.includes(folder))
        wrong.push(`${at}: only ${folders.join(', ')} may use it`);
    }
  }
  return wrong;
}

/** Names, length, opening comment and banned code; for TypeScript under `src/` and `test/`. */
export function checkFile(path: string, text: string): string[] {
  const wrong: string[] = [];
  const name = posix.basename(path);
  const lines = text.split('\n').length - 1;
  if (FILE_NAMES_BANNED.test(name)) wrong.push(`${path}: name says nothing; name its main export`);
  if (!FILE_NAME.test(name)) wrong.push(`${path}: name is not kebab-case`);
  if (lines > FILE_LINES_MAX) wrong.push(`${path}: ${lines} lines, at most ${FILE_LINES_MAX}`);
  const needsHead = !name.endsWith('.test.ts');
  if (needsHead && !/^(?:#![^\n]*\n)?\/\*\*/.test(text))
    wrong.push(`${path}: does not open with a comment`);
  const unfinished = /\b(?:TODO|FIXME|XXX)\b\s*[:(]/.exec(text);
  if (unfinished !== null) {
    wrong.push(`${path}:${lineAt(text, unfinished.index)}: "${unfinished[0]}"; finish or drop it`);
  }
  const source = readSource(text);
  if (path.startsWith('src/') && !path.endsWith('.d.ts'))
    wrong.push(...checkBans(path, source, SOURCE_BANS));
  wrong.push(...checkBans(path, source, ALL_BANS));
  return wrong;
}

/** No trace of a particular machine, registry or author; for every text file of the repository. */
export function checkWords(path: string, text: string): string[] {
  return FOREIGN_WORDS.flatMap((pattern) => {
    const match = pattern.exec(text);
    if (match === null) return [];
    return [`${path}:${lineAt(text, match.index)}: "${match[0]}" is not about the product`];
  });
}

/** Codes that the product makes and no test names, and codes that nobody makes. */
export function checkErrorCodes(
  codes: readonly string[],
  sources: ReadonlyMap<string, string>,
  tests: ReadonlyMap<string, string>,
): { readonly untested: string[]; readonly unused: string[] } {
  // Once in the list of codes; more often when something makes it.
  const declared = 'src/base/errors.ts';
  const isUsed = (code: string): boolean => {
    return [...sources].some(([path, text]) => {
      return text.split(`'${code}'`).length > (path === declared ? 2 : 1);
    });
  };
  const isTested = (code: string): boolean =>
    [...tests.values()].some((text) => text.includes(code));
  const used = codes.filter(isUsed);
  return {
    untested: used.filter((code) => !isTested(code)),
    unused: codes.filter((code) => !used.includes(code)),
  };
}

/** Folders of `src/` that the architecture page does not name. */
export function checkArchitecture(folders: readonly string[], page: string): string[] {
  return folders.filter((folder) => !page.includes(`\`${folder}/\``));
}
