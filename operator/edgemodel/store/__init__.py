"""Object storage for artifacts, on any S3.

```
<prefix>/blobs/sha256/<hex>                      the files, named by their content
<prefix>/artifacts/<key>/manifest.json           what belongs to an artifact; written last, and only if absent
<prefix>/artifacts/<key>/refs/<owner>            who still wants it; clusters and namespaces may share a bucket
<prefix>/artifacts/<key>/pending/<digest>.json   the manifest that a running publish intends: keeps its blobs
<prefix>/removals/<key>.<owner>.<attempt>.json   the blobs that a running removal may delete
<prefix>/progress/<key>.json                     how far the Job is
```
`artifacts` publishes and removes, `fetch` brings an artifact to a folder. Both may be killed anywhere and run again.
"""
