/** 图表与队列的语句。 */
import type { chartsEn } from "./en_charts";

export const chartsZh: typeof chartsEn = {
  charts: {
    title: "图表",
    ofAll: "全部模型",
    span: "时间范围",
    spans: { minutes: "10 分钟", day: "24 小时" },
    requests: "每秒请求数",
    times: "在工作进程中的时间",
    waiting: "等待中",
    batch: "批次",
    tokens: "每秒词元数",
    memory: "主内存",
    lines: { requests: "全部", errors: "失败", p50: "半数不超过", p99: "99 % 不超过", waiting: "输入", batch: "输入", tokens: "词元" },
    used: "已用",
    claimed: "当前已申领",
    said: (label: string, last: string, most: string): string => `${label} ${last}，最高 ${most}`,
    help: "由应答的服务器自启动以来保存在内存中。等待数为每秒末的数值。",
  },
  queues: {
    title: "队列与批次",
    help: "按工作进程，最近一秒；共享与缓存自其启动以来。",
    none: "没有工作进程报告其工作。",
    model: "模型",
    replica: "副本",
    waiting: "等待",
    running: "处理中",
    batch: "批次",
    requests: "请求/秒",
    tokens: "词元/秒",
    shared: "共享",
    cache: "来自缓存",
    of: (count: number): string => `/ ${count}`,
  },
};
