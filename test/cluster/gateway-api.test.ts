/** The official Gateway API conformance suite for meshes, on a real cluster: every test of both profiles. */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

import t from 'tap';
import { parse } from 'yaml';

import { buildSuite, PROFILES, removeSuite, runSuite } from '../conformance/gateway-api/suite.ts';
import { reasonToSkipGatewayApi, useCluster } from './harness.ts';

/** Kept in the repository: what the last run said of this version. */
const REPORT = resolve(import.meta.dirname, '../conformance/gateway-api/report.yaml');
const TIMEOUT_MS = 1_800_000;

t.setTimeout(TIMEOUT_MS);

interface Statistics {
  readonly result: string;
  readonly statistics: {
    readonly Passed: number;
    readonly Failed: number;
    readonly Skipped: number;
  };
}

interface Report {
  readonly profiles: readonly {
    readonly name: string;
    readonly core: Statistics;
    readonly extended?: Statistics & {
      readonly supportedFeatures?: readonly string[];
      readonly unsupportedFeatures?: readonly string[];
    };
  }[];
  readonly succeededProvisionalTests?: readonly string[];
}

t.test(
  'Gateway API conformance: MESH-HTTP and MESH-GRPC with every extended feature',
  { skip: reasonToSkipGatewayApi() },
  async (t) => {
    const cluster = useCluster(t);
    const built = await buildSuite();
    await cluster.mesh();
    t.teardown(() => removeSuite(cluster.access));
    const only = process.env['NODEMESH_CONFORMANCE_TEST'] ?? '';
    const { passed, output } = await runSuite(cluster.access, built, REPORT, only);
    for (const line of output.split('\n')) {
      if (/^\s*--- (PASS|FAIL): TestConformance\/\w+ /.test(line)) t.comment(line.trim());
    }
    if (!passed) t.comment(output.slice(-20_000));
    t.equal(passed, true, 'the suite passes');
    if (only !== '') return;
    const report = parse(readFileSync(REPORT, 'utf8')) as Report;
    t.same(report.profiles.map(({ name }) => name).toSorted(), [...PROFILES].toSorted());
    for (const { name, core, extended } of report.profiles) {
      t.match(core, { result: 'success', statistics: { Failed: 0, Skipped: 0 } }, name);
      if (name !== 'MESH-HTTP') continue;
      t.match(extended, { result: 'success', statistics: { Failed: 0, Skipped: 0 } }, name);
      t.equal(extended?.supportedFeatures?.length, 9, 'all nine extended features of meshes');
      t.notOk(extended?.unsupportedFeatures?.length);
    }
  },
);
