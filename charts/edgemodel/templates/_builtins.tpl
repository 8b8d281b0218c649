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
  {{- if and (hasPrefix "snapdragon" $name) $.Values.builtins.snapdragon.resource }}
  resources:
    - {name: {{ $.Values.builtins.snapdragon.resource | quote }}}
  {{- end }}
---
{{- end }}
{{- range $path, $_ := .Files.Glob "files/runtimes/*.yaml" }}
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeRuntime
metadata:
  name: {{ base $path | trimSuffix ".yaml" }}
  {{- include "edgemodel.builtinMetadata" $ | nindent 2 }}
spec:
  {{- include "edgemodel.runtime" (list $ $path) | nindent 2 }}
---
{{- end }}
{{- end }}

{{/* The spec of an EdgeRuntime, from its file and that of its toolchain. Call with the root and the file's path. */}}
{{- define "edgemodel.runtime" -}}
{{- $root := index . 0 }}
{{- $spec := tpl ($root.Files.Get (index . 1)) $root | fromYaml }}
{{- $toolchain := $root.Files.Get (printf "files/toolchains/%s.yaml" $spec.pipeline.toolchain) | fromYaml }}
{{- $_ := set $spec "schemes" $toolchain.schemes }}
{{- $_ := set $spec "defaultScheme" (default $toolchain.defaultScheme $spec.defaultScheme) }}
{{- $_ := set $spec.pipeline "version" $toolchain.version }}
{{- $_ := set $spec.pipeline "calibration" $toolchain.calibration }}
{{- range $part := prepend (prepend $spec.hardware $spec.serving) $spec.pipeline }}
{{- if $part.image }}
{{- $_ := set $part "image" (include "edgemodel.image" (list $root $part.image)) }}
{{- end }}
{{- end }}
{{- toYaml $spec }}
{{- end }}
