-- admit(constants, group, grant, name, input_tokens, max_output_tokens, requests, input, output, most, start)
--   -> {status, wait_ms, why, said}; status: go | wait | stopped. 0 stands for no limit
-- b hash; s zset, grant -> end of its slot; g hash, grant -> 'began input output'; r zset, grant -> when
-- it went, of the last second; l zset, name -> turn.
-- A grant that was let go before is told the same: its reply was lost.
local grant, name = ARGV[3], ARGV[4]
local configured, most, start = {ARGV[7], ARGV[8], ARGV[9]}, tonumber(ARGV[10]), tonumber(ARGV[11])
load()
forget_dead()
local stop = redis.call('GET', STOP)
if stop then return {'stopped', 0, 'stop', stop} end
if redis.call('HEXISTS', G, grant) == 1 then return {'go', 0, '', ''} end

local under_way = redis.call('ZCARD', S)
if start > 0 and under_way == 0 and now - known('asked') >= C.idle_ms then
  local small = start * C.milli
  put('milli', known('milli') == 0 and small or math.min(known('milli'), small))
  put('aim', 0)
end
put('asked', now)
keep_group()

local usual = known('usual_output')
if usual == 0 then usual = C.first_output_tokens end
local amounts = {1, tonumber(ARGV[5]), math.min(tonumber(ARGV[6]), usual)}
-- Who has waited for its turn leaves room for nobody; others do for all whose turn has come.
local mine = redis.call('ZSCORE', L, name)
local ahead = redis.call('ZCARD', L)
local ripe = redis.call('ZCOUNT', L, '-inf', int(now))
if mine then
  ahead = redis.call('ZCOUNT', L, '-inf', '(' .. mine)
  if tonumber(mine) <= now then ripe = 0 end
end

local why, wait = '', -1
for i = 1, #NAMES do
  local limit = limit_of(i, configured)
  if limit > 0 and amounts[i] ~= 0 then
    local level, parts = level_of(i, limit), i == 1 and C.unit or 1
    if level < parts + ripe * amounts[i] * C.unit then
      local short = math.max(parts + ahead * amounts[i] * C.unit - level, 0)
      local waits = math.ceil(short / limit)
      if waits > wait then why, wait = string.gsub(NAMES[i], '_', ' '), waits end
    end
  end
end
local slots = slots_of(most)
if slots >= 0 and under_way + ripe >= slots then
  local latency = known('latency')
  if latency == 0 then latency = C.first_latency_ms end
  local waits = math.floor((ahead + 1) * latency / slots)
  if waits > wait then why, wait = 'slots', waits end
end
if wait > C.longest_wait_ms then
  local half = math.floor(C.longest_wait_ms / 2)
  wait = half + wait % half
else
  wait = math.max(wait, C.least_wait_ms)
end
local said = ''
if known('pause_until') > now then
  local limit = limit_of(1, configured)
  local each = limit > 0 and math.floor(C.unit / limit) or C.least_wait_ms
  wait = math.max(known('pause_until') - now + ahead * each, wait)
  why, said = 'pause', b['said'] or ''
end
if why ~= '' then
  redis.call('ZADD', L, int(now + wait), name)
  redis.call('PEXPIRE', L, C.keep_ms)
  return {'wait', wait, why, said}
end
redis.call('ZREM', L, name)
redis.call('ZADD', S, int(now + C.slot_ttl_ms), grant)
redis.call('HSET', G, grant, int(now) .. ' ' .. int(amounts[2]) .. ' ' .. int(amounts[3]))
redis.call('PEXPIRE', S, C.slot_ttl_ms)
redis.call('PEXPIRE', G, C.slot_ttl_ms)
redis.call('ZREMRANGEBYSCORE', R, '-inf', '(' .. int(now - C.burst_ms))
redis.call('ZADD', R, int(now), grant)
redis.call('PEXPIRE', R, C.slot_ttl_ms)
charge(configured, amounts)
return {'go', 0, '', ''}
