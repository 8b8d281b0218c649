{{/* Whether the CRDs are only about to be installed: then no release can hold objects of their kinds yet. */}}
{{- define "edgemodel.firstInstall" -}}
{{- if and .Values.crds.install (not (.Capabilities.APIVersions.Has "edgemodel.dev/v1alpha1/EdgeRuntime")) }}true{{ end }}
{{- end }}

{{/* Call with the hook's weight. */}}
{{- define "edgemodel.firstInstallHook" -}}
helm.sh/hook: post-install
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- define "edgemodel.builtinMetadata" -}}
labels:
  {{- include "edgemodel.labels" (dict "root" . "component" "builtin") | nindent 2 }}
{{- if include "edgemodel.firstInstall" . }}
# By these the release adopts them when it is next upgraded.
annotations:
  meta.helm.sh/release-name: {{ .Release.Name }}
  meta.helm.sh/release-namespace: {{ .Release.Namespace }}
{{- end }}
{{- end }}

{{/* The built-in resources, as YAML documents. */}}
{{- define "edgemodel.builtins" -}}
{{- range $name, $spec := .Files.Get "files/hardware.yaml" | fromYaml }}
apiVersion: edgemodel.dev/v1alpha1
kind: HardwareClass
metadata:
  name: {{ $name }}
  {{- include "edgemodel.builtinMetadata" $ | nindent 2 }}
spec:
  {{- toYaml $spec | nindent 2 }}
  {{- if and (eq $name "snapdragon") $.Values.builtins.snapdragon.resource }}
  resources:
    - {name: {{ $.Values.builtins.snapdragon.resource | quote }}}
  {{- end }}
---
{{- end }}
{{- $llamacpp := .Files.Get "files/llamacpp.yaml" | fromYaml }}
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeRuntime
metadata:
  name: llamacpp
  {{- include "edgemodel.builtinMetadata" . | nindent 2 }}
spec:
  format: gguf
  tasks: [TextGeneration]
  schemes:
    {{- toYaml $llamacpp.schemes | nindent 4 }}
  defaultScheme: {{ $llamacpp.defaultScheme }}
  hardware:
    - {class: x86-64, preference: 100}
    - {class: arm64, preference: 100}
  pipeline:
    image: {{ include "edgemodel.image" (list . "llamacppPipeline") }}
    toolchain: llamacpp
    version: {{ $llamacpp.version | quote }}
    calibration: {{ $llamacpp.calibration }}
  serving:
    image: {{ include "edgemodel.image" (list . "llamacpp") }}
    args:
      - --model
      - $(MODEL_FILE)
      - --alias
      - $(MODEL_NAME)
      - --host
      - {{ .Values.builtins.llamacpp.host | quote }}
      - --port
      - $(PORT)
      - --ctx-size
      - $(TOTAL_CONTEXT_LENGTH)
      - --parallel
      - $(PARALLEL)
      - --threads
      - $(THREADS)
      # Else one for each core of the node, whatever the pod's share of it is. More come when these are busy.
      - --threads-http
      - "4"
      # Caches beside the KV cache: by default up to 8 GiB, and 32 snapshots a slot. The pod's memory does not include them.
      - --cache-ram
      - "0"
      - --no-cache-idle-slots
      - --ctx-checkpoints
      - "0"
      # Nothing is fitted to what the node has: the pod's size was computed from these arguments.
      - --fit
      - "off"
      - --jinja
      - --metrics
      - --no-ui
      - --offline
    port: 8080
    healthPath: /health
    metricsPath: /metrics
    drainCommand: [/usr/local/bin/drain]
    drainSeconds: 120
    startupSeconds: 600
    resources: {cpu: "1"}
    memoryOverhead: 268435456
{{- end }}
