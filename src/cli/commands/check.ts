/** `meshctl check`: is it me or the mesh; and `check --pre`: will it work here. */

import { runChecks } from '../checks/check.ts';
import { exitCodeOf, formatResults, formatSummary } from '../checks/format.ts';
import { MESH_CHECKS } from '../checks/mesh-checks.ts';
import { PRE_CHECKS, surveyProspect } from '../checks/pre-checks.ts';
import type { Cluster } from '../cluster.ts';
import type { CommandIo, ExitCode } from '../io.ts';
import { isStructured } from '../output-format.ts';
import { writeStructured } from '../report.ts';
import { createStyle } from '../style.ts';
import { surveyMesh } from '../survey/survey.ts';

export interface CheckArgs {
  readonly pre: boolean;
  /** `short`: only what is not good. */
  readonly output: 'table' | 'short' | 'json' | 'yaml';
}

export async function check(args: CheckArgs, io: CommandIo, cluster: Cluster): Promise<ExitCode> {
  const results = args.pre
    ? runChecks(PRE_CHECKS, await surveyProspect(cluster))
    : runChecks(MESH_CHECKS, await surveyMesh(cluster, io.now()));
  const exitCode = exitCodeOf(results);
  if (isStructured(args.output)) {
    const fields = { context: cluster.context, success: exitCode === 0, results };
    writeStructured(io, args.output, 'CheckReport', fields);
    return exitCode;
  }
  const style = createStyle(io);
  io.out(formatResults(results, style, args.output === 'short'));
  if (args.output === 'table') io.out(`\n${formatSummary(results, style)}`);
  return exitCode;
}
