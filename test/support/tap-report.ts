/**
 * Reads the TAP that one test file printed and counts its named tests.
 *
 * A named test is a `t.test` that holds no other: it passed, failed or was skipped. Assertions are not counted;
 * those made outside any `t.test` make the file itself one test. What TAP cannot tell (a crash, a signal, an
 * exit before the end, a hang) comes in `trouble` and counts as a failure, so that no file can fail unseen.
 */

export interface SkippedTest {
  readonly name: string;
  readonly reason: string;
}

export interface FileReport {
  readonly passed: number;
  /** Failed tests, outermost name first, joined by ` > `. */
  readonly failed: readonly string[];
  readonly skipped: readonly SkippedTest[];
  /** What the tests said with `t.comment`. */
  readonly comments: readonly string[];
}

/** One result line, with the results that were indented below it: those make it a test. */
interface Point {
  readonly name: string;
  readonly isFailed: boolean;
  /** Present for SKIP and TODO; may be empty. */
  readonly skipReason: string | undefined;
  readonly children: readonly Point[] | undefined;
}

const POINT = /^( *)(not )?ok \d+(?: - (.*?))?(?: # time=[\d.]+m?s)?(?: # (SKIP|TODO)(?: (.*))?)?$/;
const PLAN = /^( *)1\.\.(\d+)(?: # (.*))?$/;
const COMMENT = /^ *# (.*)$/;
const COMMENT_OF_TAP = /^(?:time=|\{ total: |Subtest: )/;
const INDENT = 4;
/** What a failed or timed out test does to its process: that needs no failure of its own. */
const FOLLOWS_FROM_FAILURE = /^(?:exit code 1$|ended by SIGALRM$|still running )/;

const unescape = (text: string): string => text.replaceAll(/\\([#\\])/g, '$1');

/** `trouble` is what went wrong with the process, empty when nothing did. Never throws. */
export function readTap(file: string, output: string, trouble: string): FileReport {
  // Tests are told by what is indented above their result: tap leaves out some "# Subtest" lines.
  const levels: (Point[] | undefined)[] = [[]];
  const comments: string[] = [];
  const skipped: SkippedTest[] = [];
  let planned: number | undefined;
  let yamlIndent: number | undefined;

  for (const line of output.split('\n')) {
    const indent = line.length - line.trimStart().length;
    const text = line.trim();
    const point = POINT.exec(line);
    const plan = PLAN.exec(line);
    const comment = COMMENT.exec(line)?.[1];
    const depth = indent / INDENT;
    if (yamlIndent !== undefined) {
      if (text === '...' && indent === yamlIndent) yamlIndent = undefined;
    } else if (text === '---') {
      yamlIndent = indent;
    } else if (point !== null) {
      const [, , not, name = '', directive, reason = ''] = point;
      (levels[depth] ??= []).push({
        name: unescape(name),
        isFailed: not !== undefined,
        skipReason: directive === undefined ? undefined : unescape(reason),
        children: levels[depth + 1],
      });
      levels.length = depth + 1;
    } else if (plan !== null) {
      levels[depth] ??= [];
      if (depth === 0) planned = Number(plan[2]);
      if (depth === 0 && plan[3]?.startsWith('SKIP ')) {
        skipped.push({ name: file, reason: plan[3].slice('SKIP '.length) });
      }
    } else if (comment !== undefined && !COMMENT_OF_TAP.test(comment)) {
      comments.push(unescape(comment));
    }
  }
  const points = levels[0] ?? [];
  const count = countPoints(file, points, [], skipped);
  const failed = [...count.failed];
  const tests = count.passed + failed.length + skipped.length;
  const gap = incompleteness(planned, points.length, tests);
  if (trouble !== '' && !FOLLOWS_FROM_FAILURE.test(trouble)) failed.push(`${file}: ${trouble}`);
  else if (failed.length === 0 && trouble + gap !== '') failed.push(`${file}: ${trouble || gap}`);
  else if (gap !== '' && trouble === '') failed.push(`${file}: ${gap}`);
  return { passed: count.passed, failed, skipped, comments };
}

function countPoints(
  file: string,
  points: readonly Point[],
  path: readonly string[],
  skipped: SkippedTest[],
): { readonly passed: number; readonly failed: readonly string[] } {
  const failed: string[] = [];
  let passed = 0;
  for (const point of points) {
    if (point.skipReason !== undefined) {
      // `t.skip('no tool')` gives its reason as the name.
      const name = point.skipReason === '' ? path : [...path, point.name];
      skipped.push({ name: name.join(' > ') || file, reason: point.skipReason || point.name });
    } else if (point.children !== undefined) {
      const count = countPoints(file, point.children, [...path, point.name], skipped);
      passed += count.passed;
      failed.push(...count.failed);
      if (point.isFailed && count.failed.length === 0) {
        failed.push([...path, point.name].join(' > '));
      }
    }
  }
  const assertions = points.filter((p) => p.children === undefined && p.skipReason === undefined);
  const hasTests = points.some((point) => point.children !== undefined);
  if (path.length === 0) {
    const broken = assertions.filter((point) => point.isFailed);
    for (const point of broken) failed.push(`${file}, outside a test: ${point.name}`);
    if (assertions.length > 0 && broken.length === 0) passed++;
  } else if (!hasTests && (assertions.length > 0 || points.length === 0)) {
    if (!assertions.some((point) => point.isFailed)) passed++;
  }
  return { passed, failed };
}

function incompleteness(planned: number | undefined, points: number, tests: number): string {
  if (planned === undefined) return 'ended before its tests did';
  if (planned !== points) return `planned ${planned} tests and ran ${points}`;
  if (tests === 0) return 'holds no test';
  return '';
}
