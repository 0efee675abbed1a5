{{- define "cluster.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "cluster.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "cluster.selector" . }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "cluster.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cluster.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "cluster.adminSecret" -}}
{{- .Values.secrets.adminKey.existingSecret | default (printf "%s-admin" (include "cluster.name" .)) -}}
{{- end -}}

{{- define "cluster.raySecret" -}}
{{- .Values.secrets.rayToken.existingSecret | default (printf "%s-ray" (include "cluster.name" .)) -}}
{{- end -}}

{{- define "cluster.stateClaim" -}}
{{- .Values.state.existingClaim | default (printf "%s-state" (include "cluster.name" .)) -}}
{{- end -}}

{{- define "cluster.cacheClaim" -}}
{{- .Values.cache.existingClaim | default (printf "%s-weights" (include "cluster.name" .)) -}}
{{- end -}}

{{- define "cluster.url" -}}
http://{{ include "cluster.name" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end -}}

{{/* What other pods call the server by; the settings may say otherwise. */}}
{{- define "cluster.hosts" -}}
{{- $name := include "cluster.name" . -}}
{{- $space := .Release.Namespace -}}
{{ $name }},{{ $name }}.{{ $space }},{{ $name }}.{{ $space }}.svc,{{ $name }}.{{ $space }}.svc.cluster.local
{{- end -}}

{{/* The settings as environment: a list is written with commas, as the command line takes it. */}}
{{- define "cluster.settings" -}}
{{- range $name, $value := merge (dict) .Values.settings (dict "allowed_hosts" (include "cluster.hosts" .)) }}
CLUSTER_{{ upper $name }}: {{ if kindIs "slice" $value }}{{ join "," $value | quote }}{{ else if kindIs "float64" $value }}{{ $value | toJson | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end -}}

{{- define "cluster.models" -}}
models: {{ if .Values.models }}{{ toYaml .Values.models | nindent 2 }}{{ else }}[]{{ end }}
{{- end -}}

{{- define "cluster.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.user }}
runAsGroup: {{ .Values.security.group }}
{{- if .Values.security.setVolumeGroup }}
fsGroup: {{ .Values.security.group }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: {{ .Values.security.seccompProfile }}
{{- end -}}

{{- define "cluster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What every container of ours needs to find its files: none of it is secret. */}}
{{- define "cluster.paths" -}}
- {name: HOME, value: {{ .Values.settings.home | quote }}}
- {name: TMPDIR, value: /tmp}
- {name: XDG_CACHE_HOME, value: /tmp/cache}
- {name: HF_HOME, value: /tmp/cache/huggingface}
- {name: TRITON_CACHE_DIR, value: /tmp/cache/triton}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /tmp/cache/inductor}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- range $name, $value := .Values.environment }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end -}}

{{- define "cluster.secretEnvironment" -}}
{{- if .Values.secrets.huggingface.existingSecret }}
- {name: HF_TOKEN_PATH, value: /etc/cluster/huggingface/token}
{{- end }}
{{- range .Values.secrets.environment }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}
{{- end }}
{{- end -}}

{{/* Environment of a node of Ray. The token is read from a file: an environment is seen by too many. */}}
{{- define "cluster.nodeEnvironment" -}}
{{ include "cluster.paths" . }}
{{- range $name, $value := .Values.ray.environment }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
- {name: RAY_AUTH_MODE, value: token}
- {name: RAY_AUTH_TOKEN_PATH, value: /etc/cluster/ray/token}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
- name: POD_CPUS
  valueFrom:
    resourceFieldRef: {containerName: {{ .container }}, resource: limits.cpu}
- name: POD_MEMORY
  valueFrom:
    resourceFieldRef: {containerName: {{ .container }}, resource: limits.memory}
{{- include "cluster.secretEnvironment" . }}
{{- end -}}

{{/* Flags of `ray start` that every node has. */}}
{{- define "cluster.rayFlags" -}}
--block --disable-usage-stats --include-log-monitor=false --temp-dir=/tmp/ray \
  --node-ip-address="$POD_IP" --object-store-memory={{ int64 .Values.ray.objectStoreBytes }} --memory="$POD_MEMORY" \
  --dashboard-agent-listen-port=52365 --metrics-export-port=8080 --object-manager-port=8076 \
  --node-manager-port=8077 --min-worker-port=10002 --max-worker-port=19999
{{- end -}}

{{- define "cluster.weightsMount" -}}
- {name: weights, mountPath: {{ .Values.settings.home }}/weights}
{{- end -}}

{{- define "cluster.weightsVolume" -}}
- name: weights
{{- if eq .Values.cache.kind "shared" }}
  persistentVolumeClaim: {claimName: {{ include "cluster.cacheClaim" . }}}
{{- else if eq .Values.cache.kind "node" }}
  hostPath: {path: {{ .Values.cache.hostPath }}, type: DirectoryOrCreate}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.cache.size }}}
{{- end }}
{{- end -}}

{{- define "cluster.hubMount" -}}
{{- if .Values.secrets.huggingface.existingSecret }}
- {name: hub-token, mountPath: /etc/cluster/huggingface, readOnly: true}
{{- end }}
{{- end -}}

{{- define "cluster.hubVolume" -}}
{{- with .Values.secrets.huggingface }}
{{- if .existingSecret }}
- name: hub-token
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items: [{key: {{ .key }}, path: token}]
{{- end }}
{{- end }}
{{- end -}}

{{/* Records of jobs and pictures kept for their addresses: whoever answers HTTP must see the same. */}}
{{- define "cluster.sharedFolders" -}}
{{- if and (eq .Values.cache.kind "shared") .Values.ingressNodes.replicas }}
- {name: weights, mountPath: {{ .Values.settings.home }}/files, subPath: .files}
- {name: weights, mountPath: {{ .Values.settings.home }}/jobs, subPath: .jobs}
{{- end }}
{{- end -}}

{{- define "cluster.nodeMounts" -}}
- {name: scratch, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: home, mountPath: {{ .Values.settings.home }}}
- {name: ray-token, mountPath: /etc/cluster/ray, readOnly: true}
{{ include "cluster.weightsMount" . }}
{{- include "cluster.hubMount" . }}
{{- end -}}

{{- define "cluster.nodeVolumes" -}}
- name: scratch
  emptyDir: {sizeLimit: {{ .pod.scratch | default "50Gi" }}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .pod.shm | default "1Gi" }}}
- name: ray-token
  secret:
    secretName: {{ include "cluster.raySecret" . }}
    # Readable for the pod's group: the process is not root.
    defaultMode: 0440
    items: [{key: {{ .Values.secrets.rayToken.key }}, path: token}]
{{ include "cluster.weightsVolume" . }}
{{- include "cluster.hubVolume" . }}
{{- end -}}

{{/* Where a pod may be: the same words for every kind of pod. */}}
{{- define "cluster.whereabouts" -}}
# Only the autoscaler's container speaks to Kubernetes; it has its token mounted by name.
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add (int .Values.settings.drain_s) 60 }}
securityContext: {{ include "cluster.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if .group }}
{{- with .Values.spread.topologyKeys }}
topologySpreadConstraints:
{{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "cluster.selector" $ | nindent 8 }}
        cluster/group: {{ $.group }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Requests and limits are the same: what Ray is told is what there is. */}}
{{- define "cluster.resources" -}}
{{- $gpus := .pod.gpus | default 0 | int -}}
requests:
  cpu: {{ .pod.cpus | quote }}
  memory: {{ .pod.memory | quote }}
{{- if $gpus }}
  {{ .pod.gpuResource | default "nvidia.com/gpu" }}: {{ $gpus | quote }}
{{- end }}
limits:
  cpu: {{ .pod.cpus | quote }}
  memory: {{ .pod.memory | quote }}
{{- if $gpus }}
  {{ .pod.gpuResource | default "nvidia.com/gpu" }}: {{ $gpus | quote }}
{{- end }}
{{- end -}}

{{/* A node's Ray, and whether it still runs. */}}
{{- define "cluster.rayAlive" -}}
httpGet: {path: /api/local_raylet_healthz, port: 52365}
periodSeconds: 10
timeoutSeconds: 5
failureThreshold: 6
{{- end -}}

{{- define "cluster.answers" -}}
httpGet: {path: {{ .path }}, port: http}
periodSeconds: {{ .every }}
timeoutSeconds: 5
failureThreshold: {{ .failures }}
{{- end -}}

{{/* A node that is to end takes no new work and finishes what it has. */}}
{{- define "cluster.leaves" -}}
preStop:
  exec:
    command: [/bin/bash, -c, 'exec cluster down --node --yes --address="{{ .address }}:6379" --within={{ int .Values.settings.drain_s }}']
{{- end -}}
