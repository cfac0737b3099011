-- restore(sid, deadline_ms, after_ms, ends, n_labels, labels: name value ...,
--         records: key at_ms attempt owner body ...) -> {'ok', length, must_drive, {}} | {'gone'}
-- Puts a lost session back, once. Its new life begins now, later than `after_ms`, and its fences begin
-- there too: whoever still holds a lease of an earlier life is fenced.
local sid, ends, n_labels = ARGV[1], ARGV[4] == '1', tonumber(ARGV[5])
if redis.call('HSETNX', session_key(sid), 'status', ends and 'ended' or 'open') == 0 then
  return {'gone'}
end
local first = 6 + 2 * n_labels
for at = 6, first - 1, 2 do
  redis.call('HSET', session_key(sid), 'label:' .. ARGV[at], ARGV[at + 1])
end
local length = 0
for at = first, #ARGV, 5 do
  local key, head = ARGV[at], table.concat({ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at]}, ' ')
  redis.call('RPUSH', journal_key(sid), head .. '\n' .. ARGV[at + 4])
  redis.call('HSET', index_key(sid), key, length .. ' -')
  length = length + 1
end
local began = math.max(now, tonumber(ARGV[3]) + 1)
redis.call('HSET', session_key(sid), 'created_ms', ARGV[first + 1], 'fence', int(began),
  'life', string.format('%013.0f-%08d', began, length))
redis.call('ZADD', P .. 'sessions', ARGV[first + 1], sid)
if ends then
  redis.call('HSET', session_key(sid), 'ended_ms', ARGV[#ARGV - 3])
  return {'ok', length, 0, {}}
end
if not done(sid, 'deadline') then
  local at = int(now + tonumber(ARGV[2]))
  redis.call('HSET', row_key(sid, 'deadline'), 'queue', 'control', 'state', 'ready', 'not_before', at,
    'attempt', '0', 'deaths', '0', 'retries', '0', 'tells', '0')
  due_at(sid, 'deadline', at)
end
due_at(sid, 'drive', now)
return {'ok', length, 1, {}}
